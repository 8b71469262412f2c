/**
 * Peers that send invalid frames or wrong descriptors: each is refused with an error that names the defect, the
 * generation serves on, and no descriptor stays open.
 *
 * @module
 */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { c } from "../../ffi/abi.ts";
import { libc } from "../../ffi/libc.ts";
import { localAddress } from "../../ffi/socket.ts";
import { Channel } from "../../lib/generation/channel.ts";
import { type Frame, type OfferedItem, protocolVersion } from "../../lib/generation/protocol.ts";
import { Inheritance } from "../../lib/generation/inheritance.ts";
import { connect, Fd, fdHandler, HandoverError, listen, listenAndServe } from "../../mod.ts";
import { begin } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { boundInet, boundUnix, listenOn, openRaw } from "../support/foreign.ts";
import { record, sendRaw } from "../support/raw.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** Encodes a frame unchecked. */
function lie(value: unknown): Uint8Array {
  // A frame begins with a length, as a record does.
  return record(JSON.stringify(value));
}

/** Asserts that this generation answers an HTTP request at a port. */
async function assertServes(port: number, generation: number, pid: number): Promise<void> {
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  await conn.write(
    new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
  );
  const answer = await new Response(conn.readable).text();
  assertStringIncludes(answer, `\r\n\r\n${generation} ${pid}`);
}

/** Invalid first frames at a control socket. */
const firstFrames: Record<string, Uint8Array> = {
  "an HTTP request": new TextEncoder().encode("GET / HTTP/1.0\r\n\r\n"),
  "an empty frame": new Uint8Array(4),
  "a frame of 4 GiB": Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0x7b),
  "opening brackets alone": record("[".repeat(1 << 20)),
  "an unknown type": lie({ type: "\x1b[2J" }),
  "a hello with an impossible PID": lie({ type: "hello", version: protocolVersion, pid: 2 ** 40 }),
  "a hello with a negative version": lie({ type: "hello", version: -1, pid: 7 }),
  "a hello whose token is no string": lie({
    type: "hello",
    version: protocolVersion,
    pid: 7,
    token: { length: 9 },
  }),
  "a progress with an infinite number of connections": lie({
    type: "progress",
    connections: "Infinity",
  }),
  "ready before an offer": lie({ type: "ready", probation: 0 }),
  "done without a request": lie({ type: "done", pid: 1, generation: 1 }),
  "an empty report": lie({ type: "report", status: {} }),
};

/** Invalid frames of a successor that has the offer. */
const framesAfterOffer: Record<string, Uint8Array> = {
  "a probation that is no number": lie({ type: "ready", probation: "5000" }),
  "a negative probation": lie({ type: "ready", probation: -1 }),
  "an infinite probation": record(`{"type":"ready","probation":1e999}`),
  "no probation": lie({ type: "ready" }),
  "a failure whose message is no string": lie({ type: "failed", message: { toString: 1 } }),
  "a failure with escape sequences": lie({ type: "failed", message: "\x1b]0;owned\x07" }),
  "a moved connection without a name": lie({ type: "moved" }),
  "withdrawn": lie({ type: "withdrawn" }),
};

/** Invalid frames of a successor that is ready. */
const framesAfterReady: Record<string, Uint8Array> = {
  "a type that is no string": record(`{"type":["healthy"]}`),
  "a negative number of connections": lie({ type: "progress", connections: -1 }),
  "a second ready": lie({ type: "ready", probation: 2 ** 60 }),
  "half a frame": Uint8Array.of(99, 0, 0, 0, 0x7b),
};

test("a generation serves on after every invalid frame at its control socket", async (t) => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using service = new Child("./generation.ts", [path, "--peerTimeout", "3000"]);
  const said: string[] = [];
  let port = 0;
  const heard = (async () => {
    for (;;) {
      const line = await service.line();
      if (line.startsWith("port: ")) port = Number(line.slice(6));
      said.push(line);
    }
  })().catch(() => {});
  await until(() => said.includes("serving: 1"));

  async function servesOn(): Promise<void> {
    // A frame after the offer causes a rollback: wait for its end.
    await until(async () => {
      using channel = new Channel(await connect(path));
      await channel.send({ type: "status" });
      const answer = await channel.receive();
      return answer?.type === "report" && answer.status.state === "serving";
    });
    await assertServes(port, 1, service.pid);
  }

  for (const [what, words] of Object.entries(firstFrames)) {
    await t.step(`first frame: ${what}`, async () => {
      using conn = await connect(path);
      await conn.write(words);
      conn.closeWrite();
      await servesOn();
    });
  }
  for (const [what, words] of Object.entries({ ...framesAfterOffer, ...framesAfterReady })) {
    await t.step(`frame after the offer: ${what}`, async () => {
      using channel = new Channel(await connect(path));
      await channel.send({ type: "hello", version: protocolVersion, pid: Deno.pid });
      const offer = await channel.receive() as Frame & { type: "offer" };
      for (const { fd } of await channel.receiveDescriptors(offer.items.length)) fd.close();
      if (what in framesAfterReady) {
        await channel.send({ type: "ready", probation: 2000 });
        assertEquals((await channel.receive())?.type, "withdrawn");
      }
      await channel.conn.write(words);
      if (what === "half a frame") channel[Symbol.dispose]();
      await servesOn();
    });
  }
  Deno.kill(service.pid, "SIGTERM");
  await heard;
  assertEquals((await service.ended()).code, 0);
  const refused = said.filter((line) => /is against the protocol: /.test(line));
  assert(refused.length > 8, said.join("\n"));
  // deno-lint-ignore no-control-regex -- the log must have no control characters
  assertEquals(said.filter((line) => /[\x00-\x1f\x7f-\x9f]/.test(line)), []);
});

/** Listens at the control path, and calls `answer` for the first peer after its hello. */
function pretending(path: string, answer: (channel: Channel) => Promise<void>): Disposable {
  const listener = listen(path);
  const answering = (async () => {
    using channel = new Channel(await listener.accept());
    await channel.receive();
    await answer(channel);
    // Until the peer closes the connection; its frames do not matter.
    while (await channel.receive().catch(() => undefined));
  })();
  // It fails when the test has closed the listener.
  answering.catch(() => {});
  return listener;
}

const control = { kind: "control", key: "" };
const web = { kind: "listener", key: "127.0.0.1 0" };
const offer = {
  type: "offer",
  version: protocolVersion,
  generation: 1,
  pid: 1,
  items: [control, web],
};

/** Invalid parts of an offer, and the words of the error. */
const offers: Record<string, { wrong: Record<string, unknown>; named: string }> = {
  "a sender with an impossible PID": {
    wrong: { items: [control, { ...web, senderPid: 2 ** 40 }] },
    named: "items[1].senderPid is 1099511627776, where the number of a process (0 to 2147483647)",
  },
  "a sender with a negative PID": {
    wrong: { items: [control, { ...web, senderPid: -1 }] },
    named: "items[1].senderPid is -1",
  },
  "PID 0": { wrong: { pid: 0 }, named: "pid is 0" },
  "a generation whose successor has no number": {
    wrong: { generation: 2 ** 32 },
    named: "generation is",
  },
  "no items": { wrong: { items: [] }, named: "items is an array of 0" },
  "items that are no array": { wrong: { items: { length: 2 } }, named: "items is an object" },
  "no control socket": { wrong: { items: [web] }, named: `one item of kind "control"` },
  "two control sockets": { wrong: { items: [control, control] }, named: `of kind "control"` },
  "a state of 1 PiB": {
    wrong: { items: [control, { kind: "state", key: "a", bytes: 2 ** 50 }] },
    named: "items[1].bytes is 1125899906842624",
  },
  "a path with a zero byte": {
    wrong: { items: [control, { ...web, path: "/run/a\0b" }] },
    named: "items[1].path is a text of 8 characters",
  },
  "another version than that of the hello": {
    wrong: { version: protocolVersion + 1 },
    named: `version ${protocolVersion + 1}`,
  },
};

for (const [what, { wrong, named }] of Object.entries(offers)) {
  test(`start() names the defect of an offer: ${what}`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    using _other = pretending(path, async ({ conn }) => {
      await conn.write(lie({ ...offer, ...wrong }));
    });
    await assertRejects(() => begin(path), HandoverError, named);
  });
}

/** Descriptors of another kind than the offer announces. */
const misfits: Record<string, { item: Partial<OfferedItem>; make: (at: string) => Fd }> = {
  "a file as a listener": { item: web as OfferedItem, make: () => openRaw("/dev/null") },
  "a socket that does not listen as a listener": {
    item: web as OfferedItem,
    make: () => boundInet(c.SOCK_STREAM),
  },
  "a datagram socket as a listener": {
    item: web as OfferedItem,
    make: () => boundInet(c.SOCK_DGRAM),
  },
  "a TCP listener as one at a path": {
    item: { kind: "listener", key: "unix /run/a", path: "/run/a" },
    make: () => listenOn(boundInet(c.SOCK_STREAM)),
  },
  "a listener as a datagram socket": {
    item: { kind: "datagram", key: "127.0.0.1 0" },
    make: (at) => listenOn(boundUnix(c.SOCK_STREAM, at)),
  },
  "a TCP listener as the control socket": {
    item: control as OfferedItem,
    make: () => listenOn(boundInet(c.SOCK_STREAM)),
  },
};

for (const [what, { item, make }] of Object.entries(misfits)) {
  test(`start() rejects a descriptor of another kind than offered: ${what}`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    using controlSocket = listenOn(boundUnix(c.SOCK_STREAM, directory.join("control.sock")));
    using misfit = make(directory.join("misfit.sock"));
    const isControl = item.kind === "control";
    using _other = pretending(path, async ({ conn }) => {
      await conn.write(lie({ ...offer, items: isControl ? [item] : [control, item] }));
      for (const fd of isControl ? [misfit] : [controlSocket, misfit]) {
        sendRaw(conn, record(), [fd.raw]);
      }
    });
    const error = await assertRejects(() => begin(path), HandoverError, "The descriptor that was");
    assertEquals(error.code, "ERR_HANDOVER_PROTOCOL");
  });
}

test("start() closes a descriptor of inheritFrom on which getsockopt(2) fails", async () => {
  using directory = new Directory();
  const O_PATH = 0o10000000;
  const name = new TextEncoder().encode("/dev/null\0");
  // getsockopt(2) fails with EBADF for an O_PATH descriptor (open(2)).
  using useless = new Fd(libc().open(name, O_PATH | c.O_CLOEXEC, 0));
  const theirs = directory.join("theirs.sock");
  await using _server = listenAndServe(theirs, fdHandler(useless), { logger: {} });
  await assertRejects(
    () => begin(directory.join("app.sock"), { inheritFrom: theirs }),
    Deno.errors.BadResource,
  );
  // The guard around this test counts the descriptors.
});

/** Invalid frames of a predecessor after its successor serves. */
const lateFrames: Record<string, Uint8Array> = {
  "a negative number of connections": lie({ type: "progress", connections: -1 }),
  "an infinite number of connections": record(`{"type":"progress","connections":1e999}`),
  "a moved connection without a name": lie({ type: "moved", name: null }),
  "a moved connection without a descriptor": joinedWithRecord({ type: "moved", name: "x" }),
  "a rollback whose reason is no string": lie({ type: "rollback", reason: 1 }),
  "a second offer": lie(offer),
  "an HTTP request": new TextEncoder().encode("GET / HTTP/1.0\r\n\r\n"),
};

/** A frame that announces a descriptor, and a record that carries none. */
function joinedWithRecord(frame: unknown): Uint8Array {
  const head = lie(frame);
  const whole = new Uint8Array(head.length + 4);
  whole.set(head);
  return whole;
}

for (const [what, words] of Object.entries(lateFrames)) {
  test(`a generation serves on after an invalid frame of its predecessor: ${what}`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    using listening = listenOn(boundInet(c.SOCK_STREAM));
    const { port } = localAddress(listening.raw) as Deno.NetAddr;
    using listener = listen(path);
    await using next = new Child("./generation.ts", [path]);
    using channel = new Channel(await listener.accept());
    await channel.receive();
    await channel.send(offer as Frame, {
      descriptors: [{ fd: listener.fd }, { fd: listening }],
    });
    // From here on the successor alone holds the listener: once it has ended, no client can connect.
    listening.close();
    assertEquals((await channel.receive())?.type, "ready");
    await channel.send({ type: "withdrawn" });
    while (await next.line() !== "serving: 2");
    await channel.conn.write(words);
    channel.conn.closeWrite();
    // The successor closes the connection.
    while (await channel.receive().catch(() => undefined));
    await assertServes(port, 2, next.pid);
    Deno.kill(next.pid, "SIGTERM");
    const { code, stderr } = await next.ended();
    assertEquals([code, stderr], [0, ""]);
  });
}

const namespace = ["unshare", "--pid", "--fork", "--kill-child"];
const noNamespace = await whyNoNamespace();
if (noNamespace) console.log(`lying_peer_test.ts: PID namespaces are not tested: ${noNamespace}`);

test("a generation does not take a PID of another PID namespace for one of its own", {
  ignore: noNamespace !== undefined,
}, async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listening = listenOn(boundInet(c.SOCK_STREAM));
  using listener = listen(path);
  await using next = new Child("./generation.ts", [path, "--probation", "10"], {
    through: namespace,
  });
  {
    using channel = new Channel(await listener.accept());
    await channel.receive();
    // This process has no PID in that namespace: its own number is that of another process there, or of none.
    const items = [control, { ...web, senderPid: Deno.pid }];
    await channel.send({ ...offer, items } as Frame, {
      descriptors: [{ fd: listener.fd }, { fd: listening }],
    });
    assertEquals((await channel.receive())?.type, "ready");
    await channel.send({ type: "withdrawn" });
    assertEquals((await channel.receive())?.type, "healthy");
  }
  while (await next.line() !== "serving: 2");
  let senders: (number | undefined)[] = [];
  await until(async () => {
    using channel = new Channel(await connect(path));
    await channel.send({ type: "hello", version: protocolVersion, pid: 7 });
    const answer = await channel.receive();
    if (answer?.type !== "offer") return false;
    for (const { fd } of await channel.receiveDescriptors(answer.items.length)) fd.close();
    senders = answer.items.map(({ senderPid }) => senderPid);
    return true;
  });
  assertEquals(senders, [undefined, 0]);
});

test("the error of restart() quotes the output of a failed generation without escape sequences", async () => {
  using directory = new Directory();
  const program =
    `printf '\\033[31merror\\033[0m: \\033[2Jx\\n\\tat main\\nforged line' >&2; exit 1`;
  await using app = await begin(directory.join("app.sock"), {
    command: { program: "sh", args: ["-c", program] },
  });
  await app.ready();
  const words = "error: \\u001b[2Jx\n    at main\n    forged line";
  await assertRejects(() => app.restart(), HandoverError, `the last it said was: ${words}`);
});

test("Inheritance.clear() closes the items that are left, even when a path cannot be removed", () => {
  using inheritance = new Inheritance();
  using listening = listenOn(boundInet(c.SOCK_STREAM));
  for (const path of ["/run/a", "/run/b\x1b[2J"]) {
    inheritance.add({ item: { kind: "listener", key: "", path }, fd: listening.dup() });
  }
  const [a, b] = inheritance.clear();
  assertStringIncludes(a.words, `the listener at "/run/a" (its path stays: `);
  assertStringIncludes(b.words, `the listener at "/run/b\\u001b[2J" (`);
});

/** The reason why this machine makes no PID namespace; undefined when it does. */
async function whyNoNamespace(): Promise<string | undefined> {
  try {
    const [command, ...args] = [...namespace, "true"];
    const { success, stderr } = await new Deno.Command(command, { args }).output();
    return success ? undefined : new TextDecoder().decode(stderr).trim();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "unshare is not installed";
    throw error;
  }
}
