/**
 * Generations, and processes that say they are one, whose words are out of every range: each is refused
 * by the name of what is wrong, the other one lives and serves on, and no descriptor is lost over it.
 *
 * @module
 */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { c } from "../../ffi/abi.ts";
import { libc } from "../../ffi/libc.ts";
import { localAddress } from "../../ffi/socket.ts";
import { Channel } from "../../lib/generation/channel.ts";
import type { Frame, OfferedItem } from "../../lib/generation/protocol.ts";
import { Inheritance } from "../../lib/generation/inheritance.ts";
import { connect, Fd, fdHandler, HandoverError, listen, listenAndServe } from "../../mod.ts";
import { begin } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { boundInet, boundUnix, listenOn, openRaw } from "../support/foreign.ts";
import { record, sendRaw } from "../support/raw.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** A frame that the library would not send. */
function lie(value: unknown): Uint8Array {
  // The same length in front as a record has.
  return record(JSON.stringify(value));
}

/** What a process may say first at a control socket, and is wrong. */
const firstWords: Record<string, Uint8Array> = {
  "nothing that is a frame": new TextEncoder().encode("GET / HTTP/1.0\r\n\r\n"),
  "an empty frame": new Uint8Array(4),
  "a frame without end": Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0x7b),
  "brackets alone": record("[".repeat(1 << 20)),
  "nothing known": lie({ type: "\x1b[2J" }),
  "a process that is none": lie({ type: "hello", version: 1, pid: 2 ** 40 }),
  "a negative version": lie({ type: "hello", version: -1, pid: 7 }),
  "a token of another kind": lie({ type: "hello", version: 1, pid: 7, token: { length: 9 } }),
  "an endless connection count": lie({ type: "progress", connections: "Infinity" }),
  "ready at once": lie({ type: "ready", probation: 0 }),
  "an answer": lie({ type: "done", pid: 1, generation: 1 }),
  "an empty report": lie({ type: "report", status: {} }),
};

/** What the next generation may say when it has the offer. */
const nextWords: Record<string, Uint8Array> = {
  "a probation that is no number": lie({ type: "ready", probation: "5000" }),
  "a negative probation": lie({ type: "ready", probation: -1 }),
  "a probation without end": record(`{"type":"ready","probation":1e999}`),
  "no probation": lie({ type: "ready" }),
  "a failure without words": lie({ type: "failed", message: { toString: 1 } }),
  "a failure with escapes": lie({ type: "failed", message: "\x1b]0;owned\x07" }),
  "a connection without a name": lie({ type: "moved" }),
  "draining": lie({ type: "draining" }),
};

/** What it may say when it is ready. */
const readyWords: Record<string, Uint8Array> = {
  "healthy, as no text": record(`{"type":["healthy"]}`),
  "connections below zero": lie({ type: "progress", connections: -1 }),
  "ready once more": lie({ type: "ready", probation: 2 ** 60 }),
  "half a frame": Uint8Array.of(99, 0, 0, 0, 0x7b),
};

test("a generation serves on, whatever comes to its control socket says", async (t) => {
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
    // It has taken back what it had handed over.
    await until(async () => {
      using channel = new Channel(await connect(path));
      await channel.send({ type: "status" });
      const answer = await channel.receive();
      return answer?.type === "report" && answer.status.state === "serving";
    });
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.write(
      new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
    );
    const answer = await new Response(conn.readable).text();
    assertStringIncludes(answer, `\r\n\r\n1 ${service.pid}`);
  }

  for (const [what, words] of Object.entries(firstWords)) {
    await t.step(`at first: ${what}`, async () => {
      using conn = await connect(path);
      await conn.write(words);
      conn.closeWrite();
      await servesOn();
    });
  }
  for (const [what, words] of Object.entries({ ...nextWords, ...readyWords })) {
    await t.step(`after its offer: ${what}`, async () => {
      using channel = new Channel(await connect(path));
      await channel.send({ type: "hello", version: 1, pid: Deno.pid });
      const offer = await channel.receive() as Frame & { type: "offer" };
      for (const { fd } of await channel.receiveDescriptors(offer.items.length)) fd.close();
      if (what in readyWords) {
        await channel.send({ type: "ready", probation: 2000 });
        assertEquals((await channel.receive())?.type, "draining");
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
  // deno-lint-ignore no-control-regex -- these are what is looked for
  assertEquals(said.filter((line) => /[\x00-\x1f\x7f-\x9f]/.test(line)), []);
});

/** A process that has the control path, and answers each that comes with `answer`. */
function pretending(path: string, answer: (channel: Channel) => Promise<void>): Disposable {
  const listener = listen(path);
  const answering = (async () => {
    using channel = new Channel(await listener.accept());
    await channel.receive();
    await answer(channel);
    // What it thinks of that is its own business.
    while (await channel.receive().catch(() => undefined));
  })();
  answering.catch(() => {});
  return listener;
}

const control = { kind: "control", key: "" };
const web = { kind: "listener", key: "127.0.0.1 0" };
const offer = { type: "offer", version: 1, generation: 1, pid: 1, items: [control, web] };

/** Offers of which a part is wrong, and what the error names. */
const offers: Record<string, { wrong: Record<string, unknown>; named: string }> = {
  "a donor that is no process": {
    wrong: { items: [control, { ...web, senderPid: 2 ** 40 }] },
    named: "items[1].donor is 1099511627776, where the number of a process (0 to 2147483647)",
  },
  "a donor below zero": {
    wrong: { items: [control, { ...web, senderPid: -1 }] },
    named: "items[1].donor is -1",
  },
  "no process": { wrong: { pid: 0 }, named: "pid is 0" },
  "the last generation of all": { wrong: { generation: 2 ** 32 }, named: "generation is" },
  "no items": { wrong: { items: [] }, named: "items is an array of 0" },
  "items that are no list": { wrong: { items: { length: 2 } }, named: "items is an object" },
  "no control socket": { wrong: { items: [web] }, named: `one item of kind "control"` },
  "two control sockets": { wrong: { items: [control, control] }, named: `of kind "control"` },
  "more state than there is memory": {
    wrong: { items: [control, { kind: "state", key: "a", bytes: 2 ** 50 }] },
    named: "items[1].bytes is 1125899906842624",
  },
  "a path that is none": {
    wrong: { items: [control, { ...web, path: "/run/a\0b" }] },
    named: "items[1].path is a text of 8 characters",
  },
  "another version than was asked for": { wrong: { version: 2 }, named: "version 2" },
};

for (const [what, { wrong, named }] of Object.entries(offers)) {
  test(`start() refuses an offer by what is wrong with it: ${what}`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    using _other = pretending(path, async ({ conn }) => {
      await conn.write(lie({ ...offer, ...wrong }));
    });
    await assertRejects(() => begin(path), HandoverError, named);
  });
}

/** What may come where a listener was announced, and as what. */
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
  test(`start() refuses a descriptor that is not what was offered: ${what}`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    using true_ = listenOn(boundUnix(c.SOCK_STREAM, directory.join("control.sock")));
    using false_ = make(directory.join("false.sock"));
    const isControl = item.kind === "control";
    using _other = pretending(path, async ({ conn }) => {
      await conn.write(lie({ ...offer, items: isControl ? [item] : [control, item] }));
      for (const fd of isControl ? [false_] : [true_, false_]) sendRaw(conn, record(), [fd.raw]);
    });
    const error = await assertRejects(() => begin(path), HandoverError, "The descriptor that was");
    assertEquals(error.code, "ERR_HANDOVER_PROTOCOL");
  });
}

test("a descriptor of the predecessor's that is of no use is closed", async () => {
  using directory = new Directory();
  const O_PATH = 0o10000000;
  const name = new TextEncoder().encode("/dev/null\0");
  // Not even getsockopt(2) takes one of these (open(2)).
  using useless = new Fd(libc().open(name, O_PATH | c.O_CLOEXEC, 0));
  const theirs = directory.join("theirs.sock");
  await using _server = listenAndServe(theirs, fdHandler(useless), { logger: {} });
  await assertRejects(
    () => begin(directory.join("app.sock"), { inheritFrom: theirs }),
    Deno.errors.BadResource,
  );
  // The guard of this test sees whether one is left.
});

/** What a generation before may say when the next one serves. */
const lateWords: Record<string, Uint8Array> = {
  "connections below zero": lie({ type: "progress", connections: -1 }),
  "connections without end": record(`{"type":"progress","connections":1e999}`),
  "a connection without a name": lie({ type: "moved", name: null }),
  "a connection that does not come": joinedWithRecord({ type: "moved", name: "x" }),
  "taking it back for no reason": lie({ type: "rollback", reason: 1 }),
  "an offer once more": lie(offer),
  "what is no frame": new TextEncoder().encode("GET / HTTP/1.0\r\n\r\n"),
};

/** A frame that announces a descriptor, and a record without one. */
function joinedWithRecord(frame: unknown): Uint8Array {
  const head = lie(frame);
  const whole = new Uint8Array(head.length + 4);
  whole.set(head);
  return whole;
}

for (const [what, words] of Object.entries(lateWords)) {
  test(`a generation serves on, whatever the one before says: ${what}`, async () => {
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
    // Where the other one has ended nobody is to be connected.
    listening.close();
    assertEquals((await channel.receive())?.type, "ready");
    await channel.send({ type: "draining" });
    while (await next.line() !== "serving: 2");
    await channel.conn.write(words);
    channel.conn.closeWrite();
    // It hangs up on what it cannot follow.
    while (await channel.receive().catch(() => undefined));
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.write(
      new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
    );
    assertStringIncludes(await new Response(conn.readable).text(), `\r\n\r\n2 ${next.pid}`);
    Deno.kill(next.pid, "SIGTERM");
    const { code, stderr } = await next.ended();
    assertEquals([code, stderr], [0, ""]);
  });
}

const namespace = ["unshare", "--pid", "--fork", "--kill-child"];
const noNamespace = await whyNoNamespace();
if (noNamespace) console.log(`lying_peer_test.ts: no test of PID namespaces: ${noNamespace}`);

test("the number of a process of another PID namespace is not taken for one of this", {
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
    // In there this process has no number, and its own one is another process's, or nobody's.
    const items = [control, { ...web, senderPid: Deno.pid }];
    await channel.send({ ...offer, items } as Frame, {
      descriptors: [{ fd: listener.fd }, { fd: listening }],
    });
    assertEquals((await channel.receive())?.type, "ready");
    await channel.send({ type: "draining" });
    assertEquals((await channel.receive())?.type, "healthy");
  }
  while (await next.line() !== "serving: 2");
  let donors: (number | undefined)[] = [];
  await until(async () => {
    using channel = new Channel(await connect(path));
    await channel.send({ type: "hello", version: 1, pid: 7 });
    const answer = await channel.receive();
    if (answer?.type !== "offer") return false;
    for (const { fd } of await channel.receiveDescriptors(answer.items.length)) fd.close();
    donors = answer.items.map(({ senderPid }) => senderPid);
    return true;
  });
  assertEquals(donors, [undefined, 0]);
});

test("the last words of a next generation that fails are fit to be printed", async () => {
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

test("what nobody asked for is closed, even where the path of it cannot be removed", () => {
  using inheritance = new Inheritance();
  using listening = listenOn(boundInet(c.SOCK_STREAM));
  for (const path of ["/run/a", "/run/b\x1b[2J"]) {
    inheritance.add({ item: { kind: "listener", key: "", path }, fd: listening.dup() });
  }
  const [a, b] = inheritance.clear();
  assertStringIncludes(a.words, `the listener at "/run/a" (its path stays: `);
  assertStringIncludes(b.words, `the listener at "/run/b\\u001b[2J" (`);
});

/** Why there are no PID namespaces here; undefined when there are. */
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
