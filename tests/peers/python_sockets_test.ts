/**
 * Listeners and connections that pass between Deno and Python, and are used by the receiver.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { fdConn, fdListener, listen, receive, sendConnTo, sendListenerTo } from "../../mod.ts";
import { test } from "../support/guard.ts";
import { readAll, text } from "./bytes.ts";
import { Files } from "./files.ts";
import { PythonPeer, withPython } from "./python_peer.ts";
import { inet } from "./python_streams.ts";

test("Python accepts on a TCP listener that Deno has sent and closed", withPython, async () => {
  using files = new Files();
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  using control = listen(files.socket);
  await using peer = PythonPeer.start("answer", files.socket);
  {
    using conn = await control.accept();
    await sendListenerTo(conn, listener);
  }
  listener.close();
  assertEquals((await peer.next("received")).listens, true);
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  await conn.write(text("hello\n"));
  assertEquals(await readAll(conn), "Python read: hello\n");
  await peer.finished();
});

test("Python accepts on a unix listener that Deno has sent and closed", withPython, async () => {
  using files = new Files();
  const path = files.join("moved.sock");
  const listener = listen(path);
  using control = listen(files.socket);
  await using peer = PythonPeer.start("answer", files.socket);
  {
    using conn = await control.accept();
    await sendListenerTo(conn, listener);
  }
  listener.close();
  assertEquals((await peer.next("received")).listens, true);
  using conn = await Deno.connect({ transport: "unix", path });
  await conn.write(text("hello\n"));
  assertEquals(await readAll(conn), "Python read: hello\n");
  await peer.finished();
});

test("Python answers on a connection that Deno has sent", withPython, async () => {
  using files = new Files();
  using origin = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using client = await Deno.connect({ hostname: "127.0.0.1", port: origin.addr.port });
  const moving = await origin.accept();
  using control = listen(files.socket);
  await using peer = PythonPeer.start("answer", files.socket);
  {
    using conn = await control.accept();
    await sendConnTo(conn, moving);
  }
  assertEquals((await peer.next("received")).listens, false);
  await client.write(text("hello\n"));
  assertEquals(await readAll(client), "Python read: hello\n");
  await peer.finished();
});

test("Deno accepts on listeners of Python after Python has exited", withPython, async (t) => {
  using files = new Files();
  const kinds: Record<string, string[]> = {
    TCP: ["listener"],
    unix: ["unix-listener", `--at=${files.path}/made.sock`],
  };
  for (const [name, args] of Object.entries(kinds)) {
    await t.step(name, async () => {
      await using peer = PythonPeer.start("give", files.socket, ...args);
      await peer.next("listening");
      const listeners: { listener: Deno.Listener; address: unknown }[] = [];
      const count = await receive(files.socket, (fd, meta) => {
        const address = JSON.parse(new TextDecoder().decode(meta!));
        listeners.push({ listener: fdListener(fd), address });
      });
      await peer.finished();
      assertEquals(count, 1);
      const [{ listener, address }] = listeners;
      using adopted = listener;
      using client = adopted.addr.transport === "tcp"
        ? await Deno.connect({ hostname: "127.0.0.1", port: adopted.addr.port })
        : await Deno.connect({ transport: "unix", path: files.join("made.sock") });
      assertEquals(
        adopted.addr.transport === "tcp" ? inet(adopted.addr) : files.join("made.sock"),
        address,
      );
      {
        using accepted = await adopted.accept();
        await accepted.write(text("accepted by Deno"));
      }
      assertEquals(await readAll(client), "accepted by Deno");
      await Deno.remove(files.socket);
    });
  }
});

test("Deno answers on a connection of Python after Python has exited", withPython, async () => {
  using files = new Files();
  using origin = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await using peer = PythonPeer.start(
    "give",
    files.socket,
    "connection",
    `--at=${origin.addr.port}`,
  );
  await peer.next("listening");
  using accepted = await origin.accept();
  const conns: Deno.Conn[] = [];
  await receive(files.socket, async (fd, meta) => {
    const conn = await fdConn(fd);
    conns.push(conn);
    assertEquals(inet(conn.localAddr), JSON.parse(new TextDecoder().decode(meta!)));
  });
  await peer.finished();
  const [conn] = conns;
  assertEquals(inet(conn.localAddr), inet(accepted.remoteAddr));
  await conn.write(text("and Deno is here"));
  await accepted.write(text("hello to both"));
  await accepted.closeWrite();
  assertEquals(await readAll(conn), "hello to both");
  conn.close();
  assertEquals(await readAll(accepted), "Python was here\nand Deno is here");
});
