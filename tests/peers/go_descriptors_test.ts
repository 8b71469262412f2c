/**
 * Descriptors of every kind, in both directions between Deno and Go.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { fileDescriptor } from "../../lib/native/file_descriptor.ts";
import {
  connHandler,
  type Fd,
  fdConn,
  fdFile,
  fdListener,
  fdPacketConn,
  fileHandler,
  listen,
  listenAndServe,
  listenerHandler,
  Meta,
  packetConnHandler,
  receive,
  receiveAllFrom,
  type ReceiveCallback,
  receiveFrom,
  send,
  sendTo,
  sequenceHandler,
} from "../../mod.ts";
import { test } from "../support/guard.ts";
import { bytes, hex, text } from "./bytes.ts";
import { fileNames, Files, nameOf } from "./files.ts";
import { addressOf, GoPeer, portOf, withGo } from "./go_peer.ts";

test("Deno receives working descriptors of every kind from Go", withGo, async (t) => {
  using files = new Files();
  await using go = await GoPeer.start();
  using origin = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using unixOrigin = Deno.listen({ transport: "unix", path: files.join("origin.sock") });

  const tcp = await go.ask({ do: "open", kind: "tcp listener", name: "tcp" });
  const udp = await go.ask({ do: "open", kind: "udp socket", name: "udp" });
  const unixPath = files.join("http.sock");
  await go.ask({ do: "open", kind: "unix listener", name: "unix", at: unixPath });
  await go.ask({ do: "open", kind: "file", name: "file", at: files.join("a") });
  const at = { tcp: `127.0.0.1:${origin.addr.port}`, unix: unixOrigin.addr.path };
  await go.ask({ do: "open", kind: "tcp connection", name: "conn", at: at.tcp });
  await go.ask({ do: "open", kind: "unix connection", name: "unix conn", at: at.unix });
  using ofTcp = await origin.accept();
  using ofUnix = await unixOrigin.accept();

  const useByName: Record<string, (fd: Fd) => Promise<void>> = {
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
      await other.send(text("to a socket of Go"), socket.addr);
      const [heard, from] = await socket.receive();
      await socket.send(heard, from);
      assertEquals((await other.receive())[0], text("to a socket of Go"));
      other.close();
      socket.close();
    },
    file: async (fd) => {
      using file = fdFile(fd);
      // The offset is shared with Go's descriptor, and an earlier step has read the file.
      await file.seek(0, Deno.SeekMode.Start);
      assertEquals(await new Response(file.readable).text(), files.content("a"));
    },
  };
  const names = Object.keys(useByName);
  const used: string[] = [];
  const use: ReceiveCallback = async (fd, meta) => {
    const name = String(Meta.from(meta).get("name"));
    await useByName[name](fd);
    used.push(name);
  };
  const items = names.map((name) => ({ name, meta: { name: ["string", name] } }));

  await t.step("sent by handlers of Go's server", async () => {
    const path = files.join("server.sock");
    await go.ask({ do: "serve", name: "server", path, items });
    assertEquals(await receive(path, use), names.length);
    assertEquals(used.splice(0), names);
  });
  // Without the connections: closing their Deno objects has shut them down.
  const stillOpen = items.filter(({ name }) => !name.endsWith("conn"));
  await t.step("sent over a connection", async () => {
    const path = files.join("over.sock");
    using listener = listen(path);
    await go.ask({ do: "open", kind: "unix connection", name: "over", at: path });
    using conn = await listener.accept();
    await go.ask({ do: "send", over: "over", items: stillOpen });
    await go.ask({ do: "close", name: "over" });
    assertEquals(await receiveAllFrom(conn, use), stillOpen.length);
    assertEquals(used.splice(0), stillOpen.map(({ name }) => name));
  });
  await t.step("sent to a path", async () => {
    using listener = listen(files.join("inbox.sock"));
    await go.ask({ do: "send", path: listener.addr.path, items: stillOpen.slice(0, 1) });
    using conn = await listener.accept();
    // receiveFrom() of one message: Go closes the connection at a garbage collection only.
    assertEquals(await receiveFrom(conn, use), 1);
    assertEquals(used.splice(0), ["tcp"]);
  });
});

test("Go receives working descriptors of every kind from Deno", withGo, async (t) => {
  using files = new Files();
  await using go = await GoPeer.start();
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
    await go.ask({ do: "open", kind: "unix listener", name: "inbox", at: path });
    using fd = fileDescriptor(file);
    await send(path, fd, text("mail"));
    await go.ask({ do: "accept", over: "inbox", name: "mail" });
    const { records } = await go.ask({ do: "receive", over: "mail" });
    assertEquals(records, [{
      kind: "file",
      content: files.content("a"),
      meta: hex(text("mail")),
    }]);
  });
  udp.close();
});

for (const count of [253, 10_000]) {
  test(
    `receive() returns ${count} descriptors of Go in their order, each with its meta`,
    withGo,
    async () => {
      using files = new Files();
      await using go = await GoPeer.start();
      for (const name of fileNames) {
        await go.ask({ do: "open", kind: "file", name, at: files.join(name) });
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
        received.push({ name: nameOf(fd), meta });
      });
      assertEquals(total, count);
      assertEquals(received, expected);
      assertEquals((await go.ask({ do: "log" })).log, []);
    },
  );

  test(`Go receives ${count} descriptors in their order, each with its meta`, withGo, async () => {
    using files = new Files();
    await using go = await GoPeer.start();
    await using server = listenAndServe(files.join("deno.sock"), async (_, response) => {
      for (let i = 0; i < count; i++) {
        await response.write(
          files.kept(fileNames[i % fileNames.length]),
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

test("a handler fills a message as far as Go's client has room", withGo, async (t) => {
  using files = new Files();
  await using go = await GoPeer.start();
  const shapes: Record<string, { metas: (Uint8Array | null)[]; messages: number }> = {
    "the most descriptors of a message": { metas: Array(170).fill(null), messages: 1 },
    "one descriptor more": { metas: Array(171).fill(null), messages: 2 },
    "the most descriptors and the most bytes of a message": {
      metas: Array.from({ length: 170 }, (_, i) => bytes(i < 16 ? 21 : 20)),
      messages: 1,
    },
    "one byte more": {
      metas: Array.from({ length: 170 }, (_, i) => bytes(i < 17 ? 21 : 20)),
      messages: 2,
    },
    "a meta that fills a message": { metas: [null, bytes(4092), null], messages: 3 },
  };
  for (const [name, { metas, messages }] of Object.entries(shapes)) {
    await t.step(name, async () => {
      await using server = listenAndServe(files.join("deno.sock"), async (_, response) => {
        for (const meta of metas) await response.write(0, meta);
      });
      // n calls that receive one message each; then the stream has ended.
      const over = { do: "open", kind: "unix connection", name: "over", at: server.addr.path };
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

test("plain data arrives before the descriptors, from Go and to Go", withGo, async (t) => {
  using files = new Files();
  await using go = await GoPeer.start();
  await go.ask({ do: "open", kind: "file", name: "file", at: files.join("a") });
  const plain = bytes(100_000);

  await t.step("from Go", async () => {
    using listener = listen(files.join("deno.sock"));
    await go.ask({ do: "open", kind: "unix connection", name: "over", at: listener.addr.path });
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
    await receiveAllFrom(conn, (fd, meta) => void received.push([nameOf(fd), meta]));
    assertEquals(received, [["a", text("1")], ["a", null]]);
  });

  await t.step("to Go", async () => {
    using listener = listen(files.join("other.sock"));
    await go.ask({ do: "open", kind: "unix connection", name: "over", at: listener.addr.path });
    const conn = await listener.accept();
    const sent = (async () => {
      await conn.write(plain);
      await sendTo(conn, files.kept("b"), text("1"));
      await sendTo(conn, files.kept("c"));
      conn.close();
    })();
    // Go reads the plain bytes in two parts; the descriptors may arrive before the second read.
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

/** Sends a line in each direction. */
async function converse(a: Deno.Conn, b: Deno.Conn): Promise<void> {
  for (const [from, to] of [[a, b], [b, a]]) {
    await from.write(text("a line"));
    const heard = new Uint8Array(100);
    assertEquals(heard.subarray(0, (await to.read(heard))!), text("a line"));
  }
}

/** Sends a line in each direction between the connection `name` of the Go process and `conn`. */
async function goConverses(go: GoPeer, name: string, conn: Deno.Conn): Promise<void> {
  await conn.write(text("to Go"));
  assertEquals((await go.ask({ do: "read", name, n: 5 })).data, hex(text("to Go")));
  await go.ask({ do: "write", name, data: hex(text("from Go")) });
  const heard = new Uint8Array(100);
  assertEquals(heard.subarray(0, (await conn.read(heard))!), text("from Go"));
}
