/**
 * Both directions against Go: its runtime, its gob and the library `graceful` itself. Where that
 * library cannot be had, a stand-in of Go's standard library alone takes its place (go/backend).
 *
 * @module
 */

import { assert, assertEquals, assertInstanceOf, assertMatch, assertRejects } from "@std/assert";
import { Pool } from "undici";
import { describeDescriptor } from "../../ffi/proc.ts";
import { fileDescriptor } from "../../lib/native/file_descriptor.ts";
import { listenerDescriptor } from "../../lib/native/descriptor.ts";
import {
  connHandler,
  type Fd,
  fdConn,
  fdFile,
  fdListener,
  fdPacketConn,
  fileHandler,
  type Handler,
  listen,
  listenAndServe,
  listenerHandler,
  LongWriteError,
  Meta,
  type MetaValue,
  packetConnHandler,
  receive,
  receiveAllFrom,
  type ReceiveCallback,
  receiveFrom,
  send,
  sendTo,
  sequenceHandler,
  UnexpectedEofError,
} from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const library = "github.com/gobwas/graceful";

/** What `go build` made, in a directory that goes with this process. */
interface Built {
  peer: string;
  /** Whether the library itself is in it. */
  real: boolean;
  /** What the environment has to have for the example to be built. */
  forExample: Record<string, string>;
}

const built = await build();
const withGo = { ignore: built === undefined };
const withLibrary = { ignore: !built?.real };

// What is handed over, in both directions.

test("descriptors from Go work here", withGo, async (t) => {
  using files = new Files();
  await using go = await Go.start();
  using origin = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using unixOrigin = Deno.listen({ transport: "unix", path: files.join("origin.sock") });

  const tcp = await go.ask({ do: "open", what: "tcp listener", name: "tcp" });
  const udp = await go.ask({ do: "open", what: "udp socket", name: "udp" });
  const unixPath = files.join("http.sock");
  await go.ask({ do: "open", what: "unix listener", name: "unix", at: unixPath });
  await go.ask({ do: "open", what: "file", name: "file", at: files.file("a") });
  const at = { tcp: `127.0.0.1:${origin.addr.port}`, unix: unixOrigin.addr.path };
  await go.ask({ do: "open", what: "tcp connection", name: "conn", at: at.tcp });
  await go.ask({ do: "open", what: "unix connection", name: "unix conn", at: at.unix });
  using ofTcp = await origin.accept();
  using ofUnix = await unixOrigin.accept();

  const uses: Record<string, (fd: Fd) => Promise<void>> = {
    tcp: async (fd) => {
      using listener = fdListener(fd);
      assertEquals(addressOf(listener.addr), tcp.local);
      using client = await Deno.connect({ hostname: "127.0.0.1", port: portOf(tcp.local!) });
      using accepted = await listener.accept();
      await converse(client, accepted);
    },
    unix: async (fd) => {
      using listener = fdListener(fd);
      using client = await Deno.connect({ transport: "unix", path: unixPath });
      using accepted = await listener.accept();
      await converse(client, accepted);
    },
    conn: async (fd) => {
      using conn = await fdConn(fd);
      await converse(conn, ofTcp);
    },
    "unix conn": async (fd) => {
      using conn = await fdConn(fd);
      await converse(conn, ofUnix);
    },
    udp: async (fd) => {
      const socket = fdPacketConn(fd);
      assertEquals(addressOf(socket.addr), udp.local);
      const other = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
      await other.send(text("to what was Go's"), socket.addr);
      const [heard, from] = await socket.receive();
      await socket.send(heard, from);
      assertEquals((await other.receive())[0], text("to what was Go's"));
      other.close();
      socket.close();
    },
    file: async (fd) => {
      using file = fdFile(fd);
      // The offset is shared with whoever has read it before.
      await file.seek(0, Deno.SeekMode.Start);
      assertEquals(await new Response(file.readable).text(), files.content("a"));
    },
  };
  const names = Object.keys(uses);
  const used: string[] = [];
  const use: ReceiveCallback = async (fd, meta) => {
    const name = String(Meta.from(meta).get("name"));
    await uses[name](fd);
    used.push(name);
  };
  const items = names.map((name) => ({ name, meta: { name: ["string", name] } }));

  await t.step("from its server's handlers", async () => {
    const path = files.join("server.sock");
    await go.ask({ do: "serve", name: "server", path, items });
    assertEquals(await receive(path, use), names.length);
    assertEquals(used.splice(0), names);
  });
  // Deno ended the connections when it closed its objects for them.
  const lasting = items.filter(({ name }) => !name.endsWith("conn"));
  await t.step("sent over a connection", async () => {
    const path = files.join("over.sock");
    using listener = listen(path);
    await go.ask({ do: "open", what: "unix connection", name: "over", at: path });
    using conn = await listener.accept();
    await go.ask({ do: "send", over: "over", items: lasting });
    await go.ask({ do: "close", name: "over" });
    assertEquals(await receiveAllFrom(conn, use), lasting.length);
    assertEquals(used.splice(0), lasting.map(({ name }) => name));
  });
  await t.step("sent to a path", async () => {
    using listener = listen(files.join("inbox.sock"));
    await go.ask({ do: "send", path: listener.addr.path, items: lasting.slice(0, 1) });
    using conn = await listener.accept();
    // The library leaves the connection to its garbage collector.
    assertEquals(await receiveFrom(conn, use), 1);
    assertEquals(used.splice(0), ["tcp"]);
  });
});

test("descriptors from here work in Go", withGo, async (t) => {
  using files = new Files();
  await using go = await Go.start();
  using tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using unix = listen(files.join("http.sock"));
  using origin = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using file = files.open("a");
  const udp = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });

  await using server = listenAndServe(files.join("server.sock"), async (conn, response) => {
    const moving = await Deno.connect({ hostname: "127.0.0.1", port: origin.addr.port });
    const handler = sequenceHandler(
      listenerHandler(tcp, new Meta({ name: "tcp" })),
      listenerHandler(unix),
      connHandler(moving, text("any bytes")),
      packetConnHandler(udp),
      fileHandler(file, new Meta({ name: "a" })),
    );
    await handler(conn, response);
  });
  const receiving = go.ask({ do: "receive", path: server.addr.path, keep: true });
  using accepted = await origin.accept();
  const { records } = await receiving;
  assertEquals(
    records.map(({ kind, local, content, values }) => ({ kind, local, content, values })),
    [
      {
        kind: "listener",
        local: addressOf(tcp.addr),
        content: undefined,
        values: { name: ["string", "tcp"] },
      },
      { kind: "listener", local: unix.addr.path, content: undefined, values: undefined },
      {
        kind: "connection",
        local: addressOf(accepted.remoteAddr),
        content: undefined,
        values: undefined,
      },
      { kind: "datagram", local: addressOf(udp.addr), content: undefined, values: undefined },
      {
        kind: "file",
        local: undefined,
        content: files.content("a"),
        values: { name: ["string", "a"] },
      },
    ],
  );
  assertEquals(records[2].meta, hex(text("any bytes")));

  await t.step("listeners", async () => {
    using ofTcp = await Deno.connect({ hostname: "127.0.0.1", port: tcp.addr.port });
    await go.ask({ do: "accept", over: "r0", name: "tcp" });
    await goConverses(go, "tcp", ofTcp);
    using ofUnix = await Deno.connect({ transport: "unix", path: unix.addr.path! });
    await go.ask({ do: "accept", over: "r1", name: "unix" });
    await goConverses(go, "unix", ofUnix);
  });
  await t.step("a connection", () => goConverses(go, "r2", accepted));
  await t.step("a datagram socket", async () => {
    const other = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
    await other.send(text("to Go"), udp.addr);
    const { data, from } = await go.ask({ do: "read", name: "r3" });
    assertEquals([data, from], [hex(text("to Go")), addressOf(other.addr)]);
    other.close();
  });
  await t.step("a file sent to a path where Go listens", async () => {
    const path = files.join("inbox.sock");
    await go.ask({ do: "open", what: "unix listener", name: "inbox", at: path });
    using fd = fileDescriptor(file);
    await send(path, fd, text("mail"));
    await go.ask({ do: "accept", over: "inbox", name: "mail" });
    const { records } = await go.ask({ do: "receive", over: "mail" });
    assertEquals(records, [{ kind: "file", content: files.content("a"), meta: hex(text("mail")) }]);
  });
  udp.close();
});

// Metas.

/** A value as Go's peer tells it: the name of its type, and its text or its elements. */
type GoValue = unknown[];

/** What each Go value is here; and what that is in Go, where it comes back as something else. */
const values: Record<string, { go: GoValue; here: MetaValue; back?: GoValue }> = {
  int: { go: ["int", "-65"], here: -65 },
  "the greatest safe int": { go: ["int", "9007199254740991"], here: 9007199254740991 },
  "an int that is none": {
    go: ["int", "9007199254740993"],
    here: 9007199254740993n,
    back: ["int64", "9007199254740993"],
  },
  int8: { go: ["int8", "-128"], here: -128, back: ["int", "-128"] },
  int16: { go: ["int16", "300"], here: 300, back: ["int", "300"] },
  int32: { go: ["int32", "-70000"], here: -70000, back: ["int", "-70000"] },
  int64: { go: ["int64", "-9223372036854775808"], here: -9223372036854775808n },
  uint: { go: ["uint", "7"], here: 7, back: ["int", "7"] },
  uint8: { go: ["uint8", "255"], here: 255, back: ["int", "255"] },
  uint16: { go: ["uint16", "65535"], here: 65535, back: ["int", "65535"] },
  uint32: { go: ["uint32", "4294967295"], here: 4294967295, back: ["int", "4294967295"] },
  uint64: { go: ["uint64", "18446744073709551615"], here: 18446744073709551615n },
  float32: { go: ["float32", "0.5"], here: 0.5, back: ["float64", "0.5"] },
  float64: { go: ["float64", "-1.25"], here: -1.25 },
  true: { go: ["bool", "true"], here: true },
  false: { go: ["bool", "false"], here: false },
  string: { go: ["string", "grüße, 世界"], here: "grüße, 世界" },
  "no string": { go: ["string", ""], here: "" },
  bytes: { go: ["[]uint8", "00ff10"], here: new Uint8Array([0, 255, 16]) },
  strings: { go: ["[]string", ["a", "", "c"]], here: ["a", "", "c"] },
  nil: { go: ["nil"], here: null },
  "a map in a map": {
    go: ["map[string]interface {}", {
      port: ["int", "8080"],
      tags: ["[]string", ["x"]],
      deeper: ["map[string]interface {}", { none: ["nil"] }],
    }],
    here: { port: 8080, tags: ["x"], deeper: { none: null } },
  },
  "a list": {
    go: ["[]interface {}", [["string", "a"], ["bool", "true"], ["int", "1"]]],
    here: ["a", true, 1],
  },
};

test("a meta of every kind of value is the same here and in Go", withGo, async () => {
  using files = new Files();
  await using go = await Go.start();
  await go.ask({ do: "open", what: "file", name: "file", at: files.file("a") });
  const entries = Object.entries(values);
  const one = entries.map(([name, { go }]) => ({ [name]: go }));
  const all = Object.fromEntries(entries.map(([name, { go }]) => [name, go]));
  const path = files.join("go.sock");
  const items = [...one, all].map((meta) => ({ name: "file", meta }));
  await go.ask({ do: "serve", name: "server", path, items });

  const received: Meta[] = [];
  await receive(path, (_, meta) => void received.push(Meta.from(meta)));
  assertEquals(
    received.map((meta) => Object.fromEntries(meta)),
    [
      ...entries.map(([name, { here }]) => ({ [name]: here })),
      Object.fromEntries(entries.map(([name, { here }]) => [name, here])),
    ],
  );

  // And all the way back.
  await using server = listenAndServe(files.join("deno.sock"), async (_, response) => {
    for (const meta of received) await response.write(0, meta);
  });
  const { records } = await go.ask({ do: "receive", path: server.addr.path });
  assertEquals(records.map(({ values }) => values), [
    ...entries.map(([name, { go, back = go }]) => ({ [name]: back })),
    Object.fromEntries(entries.map(([name, { go, back = go }]) => [name, back])),
  ]);
});

test("a meta of any bytes is the same here and in Go", withGo, async () => {
  using files = new Files();
  await using go = await Go.start();
  await go.ask({ do: "open", what: "file", name: "file", at: files.file("a") });
  const metas = [null, new Uint8Array(), bytes(1), bytes(20), null, bytes(4091), bytes(4092)];
  const items = metas.map((meta) => ({ name: "file", meta: meta && hex(meta) }));
  const path = files.join("go.sock");
  await go.ask({ do: "serve", name: "server", path, items });
  const received: (Uint8Array | null)[] = [];
  await receive(path, (_, meta) => void received.push(meta));
  // No meta and an empty one are the same on the wire.
  assertEquals(received, metas.map((meta) => meta?.length === 0 ? null : meta));

  await using server = listenAndServe(files.join("deno.sock"), async (_, response) => {
    for (const meta of metas) await response.write(0, meta);
    await assertRejects(() => response.write(0, bytes(4093)), LongWriteError);
  });
  const { records } = await go.ask({ do: "receive", path: server.addr.path });
  assertEquals(
    records.map(({ meta }) => meta),
    metas.map((meta) => meta?.length ? hex(meta) : undefined),
  );
});

// Numbers of them.

for (const count of [253, 10_000]) {
  test(`${count} descriptors from Go, each with its meta`, withGo, async () => {
    using files = new Files();
    await using go = await Go.start();
    for (const name of fileNames) {
      await go.ask({ do: "open", what: "file", name, at: files.file(name) });
    }
    const path = files.join("go.sock");
    const expected = Array.from({ length: count }, (_, i) => ({
      name: fileNames[i % fileNames.length],
      meta: text(`number ${i}`),
    }));
    const items = expected.map(({ name, meta }) => ({ name, meta: hex(meta) }));
    await go.ask({ do: "serve", name: "server", path, items });
    const received: { name?: string; meta: Uint8Array | null }[] = [];
    const total = await receive(path, (fd, meta) => {
      received.push({ name: files.nameOf(fd), meta });
    });
    assertEquals(total, count);
    assertEquals(received, expected);
    assertEquals((await go.ask({ do: "log" })).log, []);
  });

  test(`${count} descriptors to Go, each with its meta`, withGo, async () => {
    using files = new Files();
    await using go = await Go.start();
    await using server = listenAndServe(files.join("deno.sock"), async (_, response) => {
      for (let i = 0; i < count; i++) {
        await response.write(
          files.descriptor(fileNames[i % fileNames.length]),
          text(`number ${i}`),
        );
      }
    });
    const { records } = await go.ask({ do: "receive", path: server.addr.path });
    assertEquals(
      records,
      Array.from({ length: count }, (_, i) => ({
        kind: "file",
        content: files.content(fileNames[i % fileNames.length]),
        meta: hex(text(`number ${i}`)),
      })),
    );
  });
}

test("messages of the default size fit into the buffers of Go's client", withGo, async (t) => {
  using files = new Files();
  await using go = await Go.start();
  const shapes: Record<string, { metas: (Uint8Array | null)[]; messages: number }> = {
    "the most descriptors of a message": { metas: Array(170).fill(null), messages: 1 },
    "one more": { metas: Array(171).fill(null), messages: 2 },
    "the most of them with the most bytes": {
      metas: Array.from({ length: 170 }, (_, i) => bytes(i < 16 ? 21 : 20)),
      messages: 1,
    },
    "a byte more": {
      metas: Array.from({ length: 170 }, (_, i) => bytes(i < 17 ? 21 : 20)),
      messages: 2,
    },
    "one that fills a message": { metas: [null, bytes(4092), null], messages: 3 },
  };
  for (const [name, { metas, messages }] of Object.entries(shapes)) {
    await t.step(name, async () => {
      await using server = listenAndServe(files.join("deno.sock"), async (_, response) => {
        for (const meta of metas) await response.write(0, meta);
      });
      // So many calls that each receive one message, and no descriptor is left for another.
      const over = { do: "open", what: "unix connection", name: "over", at: server.addr.path };
      await go.ask(over);
      const { records } = await go.ask({ do: "receive", over: "over", n: messages });
      assertEquals(
        records.map(({ meta }) => meta),
        metas.map((meta) => meta ? hex(meta) : undefined),
      );
      assertEquals((await go.ask({ do: "receive", over: "over" })).records, []);
      await go.ask({ do: "close", name: "over" });
    });
  }
});

// Plain data first.

test("plain data goes before the descriptors, in both directions", withGo, async (t) => {
  using files = new Files();
  await using go = await Go.start();
  await go.ask({ do: "open", what: "file", name: "file", at: files.file("a") });
  const plain = bytes(100_000);

  await t.step("from Go", async () => {
    using listener = listen(files.join("deno.sock"));
    await go.ask({ do: "open", what: "unix connection", name: "over", at: listener.addr.path });
    using conn = await listener.accept();
    const sent = go.ask({ do: "write", name: "over", data: hex(plain) })
      .then(() =>
        go.ask({ do: "send", over: "over", items: [{ name: "file", meta: hex(text("1")) }] })
      )
      .then(() => go.ask({ do: "send", over: "over", items: [{ name: "file", meta: null }] }))
      .then(() => go.ask({ do: "close", name: "over" }));
    assertEquals(await conn.readFull(new Uint8Array(plain.length)), plain);
    await sent;
    const received: unknown[] = [];
    await receiveAllFrom(conn, (fd, meta) => void received.push([files.nameOf(fd), meta]));
    assertEquals(received, [["a", text("1")], ["a", null]]);
  });

  await t.step("to Go", async () => {
    using listener = listen(files.join("other.sock"));
    await go.ask({ do: "open", what: "unix connection", name: "over", at: listener.addr.path });
    const conn = await listener.accept();
    const sent = (async () => {
      await conn.write(plain);
      await sendTo(conn, files.descriptor("b"), text("1"));
      await sendTo(conn, files.descriptor("c"));
      conn.close();
    })();
    // Exactly the plain bytes, when everything has arrived and when it has not.
    const half = plain.length / 2;
    assertEquals(
      (await go.ask({ do: "read", name: "over", n: half })).data,
      hex(plain.subarray(0, half)),
    );
    const rest = go.ask({ do: "read", name: "over", n: half });
    assertEquals((await rest).data, hex(plain.subarray(half)));
    await sent;
    const { records } = await go.ask({ do: "receive", over: "over" });
    assertEquals(records.map(({ content, meta }) => [content, meta]), [
      [files.content("b"), hex(text("1"))],
      [files.content("c"), undefined],
    ]);
  });
});

// What fails.

test("Go's client sees that a handler failed", withGo, async (t) => {
  using files = new Files();
  await using go = await Go.start();
  const handlers: Record<string, { handler: Handler; delivered: number }> = {
    "at once": {
      handler: () => {
        throw new Error("nothing to give");
      },
      delivered: 0,
    },
    "with descriptors written and not sent": {
      handler: async (_, response) => {
        await response.write(0);
        throw new Error("half-way");
      },
      delivered: 0,
    },
    "with descriptors sent": {
      handler: async (_, response) => {
        await response.write(0, text("whole"));
        await response.flush();
        throw new Error("half-way");
      },
      delivered: 1,
    },
  };
  for (const [name, { handler, delivered }] of Object.entries(handlers)) {
    await t.step(name, async () => {
      await using server = listenAndServe(files.join("deno.sock"), handler, { logger: {} });
      const { records, error } = await go.tell({ do: "receive", path: server.addr.path });
      assertEquals(records.length, delivered);
      assert(error, "Go took a response that is not whole for one that is");
    });
  }
});

test("a client that Go leaves in the middle of a message throws", withGo, async (t) => {
  const endings: Record<string, (go: Go) => Promise<void>> = {
    killed: (go) => go.kill(),
    "by closing": async (go) => void await go.ask({ do: "close", name: "over" }),
  };
  for (const [name, end] of Object.entries(endings)) {
    await t.step(name, async () => {
      using files = new Files();
      await using go = await Go.start();
      await go.ask({ do: "open", what: "file", name: "file", at: files.file("a") });
      using listener = listen(files.join("deno.sock"));
      await go.ask({ do: "open", what: "unix connection", name: "over", at: listener.addr.path });
      using conn = await listener.accept();
      // A record, and half of the next with its descriptor.
      const data = `01000000ab${"14000000"}${"00".repeat(10)}`;
      const two = [{ name: "file" }, { name: "file" }];
      await go.ask({ do: "message", over: "over", data, items: two });
      const received: unknown[] = [];
      const receiving = assertRejects(
        () => receiveAllFrom(conn, (fd, meta) => void received.push([files.nameOf(fd), meta])),
        UnexpectedEofError,
        "after 10 of the 20 bytes",
      );
      await until(() => received.length === 1);
      await end(go);
      await receiving;
      assertEquals(received, [["a", new Uint8Array([0xab])]]);
      // The descriptor of the half is closed: the guard counts.
    });
  }
});

test(
  "a meta that the Go library cuts is an error here, and not a shorter meta",
  withLibrary,
  async () => {
    using files = new Files();
    await using go = await Go.start();
    await go.ask({ do: "open", what: "file", name: "file", at: files.file("a") });
    const path = files.join("go.sock");
    // Each part that gob writes is short enough, the whole is not: that slips through the library.
    const meta = { text: ["string", "x".repeat(4060)] };
    await go.ask({ do: "serve", name: "server", path, items: [{ name: "file", meta }] });
    await assertRejects(() => receive(path, () => {}), UnexpectedEofError);
    // Its own client takes what is left of it.
    const { records, error } = await go.tell({ do: "receive", path });
    assertEquals([records.length, records[0]?.meta?.length, error], [1, 2 * 4092, undefined]);
  },
);

test("Go's callback that refuses ends the receiving, and nothing else", withGo, async () => {
  using files = new Files();
  await using go = await Go.start();
  await using server = listenAndServe(files.join("deno.sock"), async (_, response) => {
    for (let i = 0; i < 600; i++) await response.write(files.descriptor("a"), text(`${i}`));
  }, { logger: {} });
  for (let i = 0; i < 3; i++) {
    const { records, error } = await go.tell({
      do: "receive",
      path: server.addr.path,
      refuse: 300,
    });
    assertEquals([records.length, error], [300, "the callback refuses"]);
  }
  const { records } = await go.ask({ do: "receive", path: server.addr.path });
  assertEquals(records.length, 600);
});

// A listener that both have.

test("Deno serves on a listener that a living Go makes blocking again", withGo, async (t) => {
  const endings: Record<string, (go: Go) => Promise<void>> = {
    leaves: (go) => go.leave(),
    "is killed": (go) => go.kill(),
  };
  for (const [name, end] of Object.entries(endings)) {
    await t.step(`and that then ${name}`, async () => {
      using files = new Files();
      await using go = await Go.start();
      const { local } = await go.ask({ do: "open", what: "tcp listener", name: "http" });
      const path = files.join("go.sock");
      await go.ask({ do: "serve", name: "server", path, items: [{ name: "http" }] });
      await using deno = new Child("../peers/go/serve.ts", ["receive", path]);
      assertEquals(Number(await deno.line()), portOf(local!));
      await using load = new Load(portOf(local!));
      await load.goesOn(deno);
      await blockingAgain(go, "http", load, async () => {
        for (let i = 0; i < 3; i++) await load.goesOn(deno);
      });
      // As a handover to a second client does, who has no use for it.
      await receive(path, () => {});
      await load.connects();
      await load.goesOn(deno);
      await go.ask({ do: "block", name: "http" });
      await end(go);
      await load.connects();
      await load.goesOn(deno);
      assertEquals(await load.stop(), []);
      await deno.tell("leave");
      assertEquals(await deno.line(), "left");
    });
  }
});

test("Go serves on a listener of Deno's, which goes on and then leaves", withGo, async () => {
  using files = new Files();
  await using go = await Go.start();
  const path = files.join("deno.sock");
  await using deno = new Child("../peers/go/serve.ts", ["give", path]);
  const port = Number(await deno.line());
  await using load = new Load(port);
  await load.goesOn(deno);
  await go.ask({ do: "receive", path, keep: true });
  await go.ask({ do: "http", name: "r0", data: hex(text("Go")) });
  for (let i = 0; i < 3; i++) await load.goesOn(deno);
  await until(async () => {
    await load.connects();
    return load.answers.has("Deno") && load.answers.has("Go");
  });
  await deno.tell("leave");
  assertEquals(await deno.line(), "left");
  load.answers.clear();
  await load.goesOn();
  assertEquals([...load.answers], ["Go"]);
  assertEquals(await load.stop(), []);
});

test("sending leaves a socket non-blocking, unlike Go's asking for its file", withGo, async () => {
  using files = new Files();
  await using go = await Go.start();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using fd = listenerDescriptor(listener);
  await using server = listenAndServe(files.join("deno.sock"), listenerHandler(listener));
  // Whoever makes a listener of it sets the mode: so it is looked at before.
  const modes: boolean[] = [];
  await receive(server.addr.path!, (received) => void modes.push(isNonblocking(received)));
  assertEquals([...modes, isNonblocking(fd)], [true, true]);
  await go.ask({ do: "receive", path: server.addr.path, keep: true });
  await go.ask({ do: "block", name: "r0" });
  assert(!isNonblocking(fd), "Go leaves the mode alone by now: what looks after it may go");
});

function isNonblocking({ raw }: Fd): boolean {
  const [, flags] = /^flags:\t(\d+)$/m.exec(Deno.readTextFileSync(`/proc/self/fdinfo/${raw}`))!;
  return (parseInt(flags, 8) & 0o4000) !== 0;
}

/** Has Go make a listener blocking again and again while clients connect and `body` runs. */
async function blockingAgain(
  go: Go,
  name: string,
  load: Load,
  body: () => Promise<void>,
): Promise<void> {
  let done = false;
  const blocking = (async () => {
    while (!done) {
      await go.ask({ do: "block", name });
      await load.connects();
    }
  })();
  try {
    await body();
  } finally {
    done = true;
    await blocking;
  }
}

// The example.

test("the migration from Go to Deno and back loses no request", withGo, async () => {
  const { code, text } = await example("migrate.ts", "--back", "--seconds", "3");
  assertEquals([code, text.match(/^failed +(\d+)$/m)?.[1]], [0, "0"], text);
  assertEquals([...text.matchAll(/^\w+ -> \w+/gm)].join(), "Go -> Deno,Deno -> Go");
  const answered = [...text.matchAll(/^ {2}by (\w+) +([\d,]+)/gm)];
  assertEquals(answered.map(([, language]) => language), ["Go", "Deno", "Go"]);
  assert(answered.every(([, , n]) => n !== "0"), text);
});

test("the programs of the example print their usage, and refuse unknown flags", async () => {
  for (const program of ["migrate.ts", "main.ts"]) {
    const help = await example(program, "--help");
    assertEquals(help.code, 0);
    assertMatch(help.text, /Usage: /);
    const unknown = await example(program, "--bogus");
    assertEquals(unknown.code, 2);
    assertMatch(unknown.text, /--bogus/);
  }
});

async function example(
  program: string,
  ...args: string[]
): Promise<{ code: number; text: string }> {
  const path = new URL(`../../examples/from_go/${program}`, import.meta.url).pathname;
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", decodeURIComponent(path), ...args],
    env: built?.forExample ?? {},
  }).output();
  const decoder = new TextDecoder();
  return { code, text: decoder.decode(stdout) + decoder.decode(stderr) };
}

const fileNames = ["a", "b", "c", "d", "e", "f", "g"];

/** A directory with small files that differ, each open once. */
class Files extends Directory {
  readonly #descriptors = new Map<string, Fd>();

  constructor() {
    super();
    for (const name of fileNames) Deno.writeTextFileSync(this.file(name), this.content(name));
  }

  file(name: string): string {
    return this.join(`${name}.txt`);
  }

  content(name: string): string {
    return `the file ${name}`;
  }

  open(name: string): Deno.FsFile {
    return Deno.openSync(this.file(name));
  }

  /** The number of a descriptor that is open on the file until the end of the block. */
  descriptor(name: string): number {
    const known = this.#descriptors.get(name);
    if (known) return known.raw;
    using file = this.open(name);
    const fd = fileDescriptor(file);
    this.#descriptors.set(name, fd);
    return fd.raw;
  }

  /** The file that a descriptor is open on. */
  nameOf(fd: Fd): string | undefined {
    const path = describeDescriptor(fd.raw);
    return fileNames.find((name) => this.file(name) === path);
  }

  override [Symbol.dispose](): void {
    for (const fd of this.#descriptors.values()) fd.close();
    super[Symbol.dispose]();
  }
}

/** What Go says of something that is open. */
interface Described {
  kind?: "listener" | "connection" | "datagram" | "file";
  local?: string;
  peer?: string;
  content?: string;
}

/** What Go received. */
interface Reported extends Described {
  meta?: string;
  values?: Record<string, GoValue>;
}

interface Item {
  name: string;
  meta?: string | Record<string, GoValue> | null;
}

/** What Go's peer is asked to do; go/peer/main.go has what each word means. */
interface Request {
  do: string;
  name?: string;
  over?: string;
  path?: string | null;
  what?: string;
  at?: string | null;
  data?: string;
  n?: number;
  items?: Item[];
  keep?: boolean;
  refuse?: number;
}

interface Answer extends Described {
  id: number;
  error?: string;
  data: string;
  from: string;
  n: number;
  log: string[];
  records: Reported[];
}

/** A Go process that passes descriptors. */
class Go implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #waiting = new Map<number, PromiseWithResolvers<Answer>>();
  readonly #reading: Promise<void>;
  #id = 0;

  private constructor() {
    this.#process = new Deno.Command(built!.peer, { stdin: "piped", stdout: "piped" }).spawn();
    this.#input = this.#process.stdin.getWriter();
    this.#reading = this.#read();
  }

  /** Starts one, which says what it is. */
  static async start(): Promise<Go> {
    const go = new Go();
    await go.#answer(0);
    return go;
  }

  /** Has it do something; throws when that failed. */
  async ask(request: Request): Promise<Answer> {
    const answer = await this.tell(request);
    if (answer.error !== undefined) throw new Error(`Go, ${request.do}: ${answer.error}`);
    return answer;
  }

  /** Has it do something, which may fail. */
  async tell(request: Request): Promise<Answer> {
    const id = ++this.#id;
    const answer = this.#answer(id);
    await this.#input.write(text(`${JSON.stringify({ id, ...request })}\n`));
    return await answer;
  }

  /** Has it end by itself, and well. */
  async leave(): Promise<void> {
    await this.#input.close();
    assertEquals((await this.#process.status).code, 0);
  }

  async kill(): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.kill();
    } catch (error) {
      assertInstanceOf(error, TypeError, "it has ended already, says Deno with a TypeError");
    }
    await this.#input.abort().catch(() => {});
    await this.#reading;
  }

  #answer(id: number): Promise<Answer> {
    const answer = Promise.withResolvers<Answer>();
    this.#waiting.set(id, answer);
    return answer.promise;
  }

  async #read(): Promise<void> {
    let rest = "";
    for await (const chunk of this.#process.stdout.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        const answer = JSON.parse(line) as Answer;
        this.#waiting.get(answer.id)!.resolve(answer);
        this.#waiting.delete(answer.id);
      }
    }
    for (const { reject } of this.#waiting.values()) reject(new Error("Go ended"));
  }
}

/** Clients that keep their connections and never ask again; what fails is counted. */
class Load implements AsyncDisposable {
  /** What the answers said. */
  readonly answers = new Set<string>();
  readonly #port: number;
  readonly #pool: Pool;
  readonly #failures: string[] = [];
  readonly #clients: Promise<void>[];
  #answered = 0;
  #connecting = 0;
  #running = true;

  constructor(port: number) {
    const connections = 8;
    this.#port = port;
    this.#pool = new Pool(`http://127.0.0.1:${port}`, { connections, pipelining: 1 });
    this.#clients = Array.from({ length: connections }, async () => {
      while (this.#running) await this.#note(() => this.#request());
    });
  }

  /** A request over a connection of its own; waits only if several are not answered yet. */
  async connects(): Promise<void> {
    const request = text("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    this.#connecting++;
    this.#clients.push(this.#note(async () => {
      try {
        using conn = await Deno.connect({ hostname: "127.0.0.1", port: this.#port });
        await conn.write(request);
        const answer = await textOf(conn);
        if (!answer.startsWith("HTTP/1.1 200 ")) throw new Error(`answered ${answer}`);
        return answer.split("\r\n\r\n")[1];
      } finally {
        this.#connecting--;
      }
    }));
    await until(() => this.#connecting < 4);
  }

  /** Waits until many more have been answered; and timers have ticked in `child`. */
  async goesOn(child?: Child): Promise<void> {
    const answered = this.#answered;
    await until(() => this.#answered > answered + 500);
    if (!child) return;
    const ticks = async () => {
      await child.tell("ticks");
      return Number(await child.line());
    };
    const before = await ticks();
    await until(async () => await ticks() > before + 5);
  }

  /** Ends it; gives what failed. */
  async stop(): Promise<string[]> {
    this.#running = false;
    await Promise.all(this.#clients);
    await this.#pool.close();
    return this.#failures;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#running = false;
    await this.#pool.destroy();
  }

  async #request(): Promise<string> {
    const { statusCode, body } = await this.#pool.request({ method: "GET", path: "/" });
    const answer = await body.text();
    if (statusCode !== 200) throw new Error(`answered ${statusCode}: ${answer}`);
    return answer;
  }

  async #note(ask: () => Promise<string>): Promise<void> {
    try {
      this.answers.add(await ask());
      this.#answered++;
    } catch (error) {
      this.#failures.push(String(error));
    }
  }
}

/** What arrives to the end. */
async function textOf(conn: Deno.Conn): Promise<string> {
  const decoder = new TextDecoder();
  const piece = new Uint8Array(4096);
  let all = "";
  for (let n = await conn.read(piece); n !== null; n = await conn.read(piece)) {
    all += decoder.decode(piece.subarray(0, n), { stream: true });
  }
  return all;
}

/** Writes on either side what the other reads. */
async function converse(a: Deno.Conn, b: Deno.Conn): Promise<void> {
  for (const [from, to] of [[a, b], [b, a]]) {
    await from.write(text("a line"));
    const heard = new Uint8Array(100);
    assertEquals(heard.subarray(0, (await to.read(heard))!), text("a line"));
  }
}

/** The same with the connection `name` of Go's. */
async function goConverses(go: Go, name: string, conn: Deno.Conn): Promise<void> {
  await conn.write(text("to Go"));
  assertEquals((await go.ask({ do: "read", name, n: 5 })).data, hex(text("to Go")));
  await go.ask({ do: "write", name, data: hex(text("from Go")) });
  const heard = new Uint8Array(100);
  assertEquals(heard.subarray(0, (await conn.read(heard))!), text("from Go"));
}

/** An address in Go's words. */
function addressOf(addr: Deno.Addr): string {
  return "hostname" in addr ? `${addr.hostname}:${addr.port}` : (addr as Deno.UnixAddr).path;
}

function portOf(address: string): number {
  return Number(address.split(":")[1]);
}

function text(words: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(words);
}

/** Every byte value in turn: nothing on the way may care what is in a meta. */
function bytes(length: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, (_, i) => i * 7);
}

function hex(bytes: Uint8Array): string {
  return bytes.toHex();
}

/** Builds the peer; undefined, and a line that says why, where that cannot be. */
async function build(): Promise<Built | undefined> {
  const go = await findGo();
  if (!go) {
    console.log("go_test.ts: skipped, for go is not installed");
    return undefined;
  }
  const directory = Deno.makeTempDirSync({ prefix: "graceful-" });
  addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));
  const peer = `${directory}/peer`;
  // Where the library cannot be had at all, it cannot be had for the example either.
  const missing = await whyMissing(go, "go/");
  if (missing === undefined) await run(go, "go/", ["build", "-o", peer, "./peer"], {});
  else {
    console.log(
      `go_test.ts: ${library} cannot be had here (${missing}); its tests run against Go's own ` +
        `net, syscall and encoding/gob instead`,
    );
    const offline = { GOPROXY: "off", GOWORK: "off" };
    await run(go, "go/", ["build", "-tags", "plain", "-o", peer, "./peer"], offline);
  }
  const example = "../../examples/from_go/";
  const standsIn = missing ?? await whyMissing(go, example);
  const forExample = {
    PATH: `${Deno.env.get("PATH")}:${go.slice(0, go.lastIndexOf("/"))}`,
    ...(standsIn === undefined ? {} : { GOPROXY: "off", GOWORK: standIn(directory, example) }),
  };
  return { peer, real: missing === undefined, forExample };
}

async function findGo(): Promise<string | undefined> {
  const places = `${Deno.env.get("PATH")}:/usr/local/go/bin`.split(":");
  for (const go of places.map((place) => `${place}/go`)) {
    try {
      if ((await new Deno.Command(go, { args: ["version"] }).output()).success) return go;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}

/** Downloads the library, if need be; gives in a few words why a module cannot have it. */
async function whyMissing(go: string, module: string): Promise<string | undefined> {
  // A server that does not answer is one that refuses.
  const signal = AbortSignal.timeout(60_000);
  const { success, stderr } = await started(go, module, ["list", "-deps", "./..."], {}, signal);
  if (success) return undefined;
  if (signal.aborted) return "no answer for a minute";
  // What follows indented is the server's word for it.
  const lines = new TextDecoder().decode(stderr).split("\n").filter((line) => /^\S/.test(line));
  return lines.at(-1)?.split(": ").at(-1) ?? "for no reason given";
}

/** A workspace in which the stand-in has the library's name: for a program that imports that. */
function standIn(directory: string, module: string): string {
  const plain = Deno.readTextFileSync(new URL("go/backend/plain.go", import.meta.url))
    .replace("//go:build plain\n", "")
    .replace("\npackage backend\n", "\npackage graceful\n");
  Deno.mkdirSync(`${directory}/graceful`);
  Deno.writeTextFileSync(`${directory}/graceful/graceful.go`, plain);
  Deno.writeTextFileSync(`${directory}/graceful/go.mod`, `module ${library}\n\ngo 1.21\n`);
  const path = decodeURIComponent(new URL(module, import.meta.url).pathname).replace(/\/$/, "");
  const work = `${directory}/go.work`;
  Deno.writeTextFileSync(work, `go 1.21\n\nuse (\n\t"./graceful"\n\t${JSON.stringify(path)}\n)\n`);
  return work;
}

async function run(
  go: string,
  module: string,
  args: string[],
  env: Record<string, string>,
): Promise<void> {
  const { success, stderr } = await started(go, module, args, env);
  if (!success) throw new Error(`go ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
}

/** Runs a command of Go's in a module: nothing is downloaded beside the library. */
function started(
  go: string,
  module: string,
  args: string[],
  env: Record<string, string>,
  signal?: AbortSignal,
): Promise<Deno.CommandOutput> {
  return new Deno.Command(go, {
    args,
    cwd: new URL(module, import.meta.url),
    env: { GOTOOLCHAIN: "local", GIT_TERMINAL_PROMPT: "0", ...env },
    signal,
  }).output();
}
