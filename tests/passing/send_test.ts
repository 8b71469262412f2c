import { assert, assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { closeAll, isOpen } from "../../ffi/fd.ts";
import { connectUnix, listenUnix } from "../../ffi/socket.ts";
import {
  connect,
  Fd,
  fdConn,
  fdFile,
  fdListener,
  fdPacketConn,
  listen,
  LongWriteError,
  Meta,
  NoDescriptorError,
  NotUnixConnError,
  receiveAllFrom,
  ResponseWriter,
  send,
  sendConnTo,
  sendFileTo,
  sendListenerTo,
  sendPacketConnTo,
  sendTo,
  type UnixConn,
  UnixListener,
} from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { captureMessages, connectedPair, Sockets } from "../support/raw.ts";
import { test } from "../support/guard.ts";

test("send() delivers a descriptor to a process that listens", async () => {
  await using inbox = await Inbox.open();
  const [a, b] = connectedPair();
  using lent = a;
  using peer = b;
  await send(inbox.path, lent.fd, bytesOf("conn"));
  assertEquals(await inbox.child.line(), "holding");
  await peer.write(bytesOf("hello"));
  const wanted = `${inbox.child.pid} heard hello`;
  assertEquals(text(await peer.readFull(new Uint8Array(wanted.length))), wanted);
  assertEquals(await inbox.child.line(), "received 1");
  assert(isOpen(lent.fd.raw));
});

test("sendTo() delivers a descriptor over a connection, which stays the sender's", async () => {
  using sockets = new Sockets(2);
  const [a, b] = connectedPair();
  using receiver = a;
  {
    using sender = b;
    await sendTo(sender, sockets.raws[0], bytesOf("a number"));
    using fd = new Fd(sockets.raws[1]);
    await sendTo(sender, fd, new Meta({ form: "Fd" }));
    fd.take();
    assert(sender.fd.owned);
  }
  const got = await all(receiver);
  assertEquals(got.map(({ cookie }) => cookie), sockets.cookies);
  assertEquals(text(got[0].meta), "a number");
  assertEquals(Meta.from(got[1].meta).get("form"), "Fd");
});

test("sendListenerTo() delivers: another process accepts on the listener", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await using inbox = await Inbox.open();
  {
    using conn = await inbox.connect();
    await sendListenerTo(conn, listener, bytesOf("listener"));
  }
  assertEquals(await inbox.child.line(), "accepting");
  using client = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  assertEquals(await read(client), `hello from ${inbox.child.pid}`);
  assertEquals(await inbox.child.line(), "received 1");
});

test("sendConnTo() delivers: another process goes on with the conversation", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using peer = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  const moving = await listener.accept();
  await using inbox = await Inbox.open();
  using conn = await inbox.connect();
  await sendConnTo(conn, moving, bytesOf("conn"));
  // It has moved when the promise resolves.
  await assertRejects(() => moving.write(bytesOf("gone")), Deno.errors.BadResource);
  assertEquals(await inbox.child.line(), "holding");
  await peer.write(bytesOf("hello"));
  assertEquals(await read(peer), `${inbox.child.pid} heard hello`);
  conn.close();
  assertEquals(await inbox.child.line(), "received 1");
  assertEquals(await read(peer), null);
});

test("sendPacketConnTo() delivers: another process answers on the socket", async () => {
  const local = { transport: "udp", hostname: "127.0.0.1", port: 0 } as const;
  const socket = Deno.listenDatagram(local);
  const peer = Deno.listenDatagram(local);
  {
    await using inbox = await Inbox.open();
    using conn = await inbox.connect();
    await sendPacketConnTo(conn, socket, bytesOf("datagram"));
    assertEquals(await inbox.child.line(), "receiving");
    await peer.send(bytesOf("hello"), socket.addr);
    const [answer, from] = await peer.receive();
    assertEquals([text(answer), from], [`${inbox.child.pid} heard hello`, socket.addr]);
  }
  socket.close();
  peer.close();
});

test("sendFileTo() delivers: another process writes on", async () => {
  using directory = new Directory();
  using file = Deno.openSync(directory.join("log"), { append: true, create: true });
  await using inbox = await Inbox.open();
  {
    using conn = await inbox.connect();
    await sendFileTo(conn, file, bytesOf("file"));
  }
  assertEquals(await inbox.child.line(), "received 1");
  file.writeSync(bytesOf("and a last one\n"));
  assertEquals(
    Deno.readTextFileSync(directory.join("log")),
    `a line of ${inbox.child.pid}\nand a last one\n`,
  );
});

test("descriptors that are sent one by one arrive as messages of one, in order", async () => {
  using sockets = new Sockets(5);
  const [a, b] = connectedPair();
  using receiver = a;
  {
    using sender = b;
    for (const raw of sockets.raws) await sendTo(sender, raw);
  }
  const messages = await captureMessages(receiver);
  assertEquals(messages.map(({ cookies }) => cookies), sockets.cookies.map((cookie) => [cookie]));
});

test("sent objects stay open here, and work", async () => {
  using directory = new Directory();
  const [a, b] = connectedPair();
  using receiver = a;
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using file = Deno.openSync(directory.join("file"), { write: true, create: true });
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  {
    using sender = b;
    await sendListenerTo(sender, listener);
    await sendFileTo(sender, file);
    await sendPacketConnTo(sender, socket);
  }
  const kinds: unknown[] = [];
  await receiveAllFrom(receiver, (fd) => {
    if (kinds.length === 0) {
      using same = fdListener(fd);
      kinds.push(same.addr);
    } else if (kinds.length === 1) {
      using same = fdFile(fd);
      kinds.push(same.statSync().ino);
    } else {
      const same = fdPacketConn(fd);
      kinds.push(same.addr);
      same.close();
    }
  });
  assertEquals(kinds, [listener.addr, file.statSync().ino, socket.addr]);
  using client = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  (await listener.accept()).close();
  assertEquals(await read(client), null);
  socket.close();
});

test("sendConnTo() lends a UnixConn", async () => {
  const [a, b] = connectedPair();
  using receiver = a;
  const [c, d] = connectedPair();
  using lent = c;
  using peer = d;
  {
    using sender = b;
    await sendConnTo(sender, lent);
  }
  await receiveAllFrom(receiver, async (fd) => {
    using same = await fdConn(fd);
    await same.write(bytesOf("hello"));
  });
  assertEquals(text(await peer.readFull(new Uint8Array(5))), "hello");
  assert(lent.fd.owned);
});

test("send() rejects if no process listens at the path", async () => {
  using directory = new Directory();
  const path = directory.join("inbox.sock");
  await assertRejects(() => send(path, 0), Deno.errors.NotFound);
  const listener = listen(path);
  listener.keepPath();
  listener.close();
  await assertRejects(() => send(path, 0), Deno.errors.ConnectionRefused);
});

test("sending over a connection whose peer has gone is an error", async () => {
  const [a, b] = connectedPair();
  using sender = a;
  b.close();
  await assertRejects(() => sendTo(sender, 0), Deno.errors.BrokenPipe);
});

test("a meta may be as long as the receiver was said to take", async () => {
  using sockets = new Sockets(1);
  const [a, b] = connectedPair();
  using receiver = a;
  const [raw] = sockets.raws;
  const long = new Uint8Array(4093).fill(7);
  {
    using sender = b;
    await assertRejects(() => sendTo(sender, raw, long), LongWriteError, "4093 bytes of meta");
    await assertRejects(
      () => sendTo(sender, raw, long.subarray(1), { maxMetaBytes: 4091 }),
      LongWriteError,
    );
    await sendTo(sender, raw, long.subarray(1));
    await sendTo(sender, raw, long, { maxMetaBytes: 4093 });
  }
  assertEquals((await all(receiver)).map(({ meta }) => meta!.length), [4092, 4093]);
});

test("the signal ends a wait for a receiver that does not read", async () => {
  using sockets = new Sockets(1);
  const [a, b] = connectedPair();
  using receiver = a;
  using sender = b;
  const reason = new Error("enough");
  const controller = new AbortController();
  const { signal } = controller;
  let sent = 0;
  const sending = (async () => {
    for (;;) {
      await sendTo(sender, sockets.raws[0], new Uint8Array(4092), { signal });
      sent++;
    }
  })();
  // It goes on turn by turn for as long as there is room.
  for (let before = -1; before !== sent; await new Promise((resolve) => setTimeout(resolve))) {
    before = sent;
  }
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => sending), reason);
  // What was sent before is whole.
  sender.close();
  assertEquals((await all(receiver)).length, sent);

  const inbox = `\0${crypto.randomUUID()}`;
  using _listener = listen(inbox);
  const rejected = await assertRejects(() => send(inbox, 0, null, { signal }));
  assertStrictEquals(rejected, reason);
});

test("the signal ends send()'s wait for a place in the listener's queue", async () => {
  using directory = new Directory();
  const path = directory.join("inbox.sock");
  using fd = new Fd(listenUnix(path, "Cannot listen", { backlog: 0 }));
  const queued: number[] = [];
  for (let raw = connectUnix(path, "Cannot connect"); raw >= 0;) {
    queued.push(raw);
    raw = connectUnix(path, "Cannot connect");
  }
  const reason = new Error("enough");
  const controller = new AbortController();
  const sending = send(path, 0, null, { signal: controller.signal });
  controller.abort(reason);
  // A place is free now; nobody is to take it any more.
  const listener = new UnixListener(fd);
  for (const _ of queued) (await listener.accept()).close();
  assertStrictEquals(await assertRejects(() => sending), reason);
  await assertRejects(() => listener.accept({ signal: AbortSignal.timeout(0) }), DOMException);
  closeAll(queued);
});

test("a connection of another kind is refused: it cannot carry descriptors", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  using listener = Deno.listen({ transport: "unix", path });
  using native = await Deno.connect({ transport: "unix", path });
  using _accepted = await listener.accept();
  using tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  for (const junk of [native, tcp, 0, {}, null, undefined, "conn"]) {
    const conn = junk as unknown as UnixConn;
    for (
      const sending of [
        () => sendTo(conn, 0),
        () => sendListenerTo(conn, tcp),
        () => sendConnTo(conn, 0),
        () => sendPacketConnTo(conn, 0),
        () => sendFileTo(conn, 0),
        async () => await new ResponseWriter(conn).flush(),
      ]
    ) await assertRejects(sending, NotUnixConnError);
  }
});

test("an object that is no listener, connection, socket or file throws, and nothing is sent", async () => {
  const [a, b] = connectedPair();
  using receiver = a;
  {
    using sender = b;
    for (const junk of [null, undefined, "words", {}, true]) {
      // deno-lint-ignore no-explicit-any -- what a program without types may pass
      const object = junk as any;
      for (const sending of [sendListenerTo, sendConnTo, sendPacketConnTo, sendFileTo]) {
        await assertRejects(() => sending(sender, object), NoDescriptorError);
      }
    }
    await assertRejects(() => sendTo(sender, -1));
    await assertRejects(() => sendTo(sender, 1_000_000), Deno.errors.BadResource, "1000000");
  }
  assertEquals(await captureMessages(receiver), []);
});

/** A process that listens and uses what it is sent. */
class Inbox implements AsyncDisposable {
  readonly path: string;
  readonly child: Child;
  readonly #directory = new Directory();

  private constructor() {
    this.path = this.#directory.join("inbox.sock");
    this.child = new Child("./take.ts", [this.path, "inbox"]);
  }

  static async open(): Promise<Inbox> {
    const inbox = new Inbox();
    assertEquals(await inbox.child.line(), "listening");
    return inbox;
  }

  async connect(): Promise<UnixConn> {
    return await connect(this.path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.child[Symbol.asyncDispose]();
    this.#directory[Symbol.dispose]();
  }
}

/** What arrives on `conn`, to the end. */
async function all(conn: UnixConn): Promise<{ cookie: bigint; meta: Uint8Array | null }[]> {
  const got: { cookie: bigint; meta: Uint8Array | null }[] = [];
  await receiveAllFrom(conn, (fd, meta) => {
    got.push({ cookie: Sockets.cookie(fd.raw), meta });
  });
  return got;
}

async function read(conn: Deno.Conn): Promise<string | null> {
  const into = new Uint8Array(100);
  const n = await conn.read(into);
  return n === null ? null : text(into.subarray(0, n));
}

function bytesOf(words: string): Uint8Array {
  return new TextEncoder().encode(words);
}

function text(bytes: Uint8Array | null): string {
  return new TextDecoder().decode(bytes!);
}
