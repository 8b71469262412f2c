/**
 * Peers that break the rules, stall, leave or run out: what the library does then, and that no
 * descriptor is lost over it.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import { c } from "../../ffi/abi.ts";
import { closeAll } from "../../ffi/fd.ts";
import { libc } from "../../ffi/libc.ts";
import { IncomingMessage, OutgoingMessage, wouldBlock } from "../../ffi/message.ts";
import { describeDescriptor, openDescriptors } from "../../ffi/proc.ts";
import { unreadBytes } from "../../ffi/socket_options.ts";
import { pause } from "../../lib/time.ts";
import { fileDescriptor } from "../../lib/native/file_descriptor.ts";
import {
  connect,
  ControlTruncatedError,
  EmptyControlMessageError,
  Fd,
  fdHandler,
  listen,
  listenAndServe,
  LongReadError,
  LongWriteError,
  receive,
  receiveAllFrom,
  receiveFrom,
  type ReceiveOptions,
  sendTo,
  sequenceHandler,
  SurplusDescriptorsError,
  UnexpectedEofError,
  type UnixConn,
} from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { connectedPair, joined, record, sendRaw } from "../support/raw.ts";
import { until } from "../support/until.ts";
import { openSignalSockets } from "../support/deno_descriptors.ts";
import { test } from "../support/guard.ts";

if (Deno.args[0] === "receive at the limit") await receiveAtTheLimit(Deno.args[1]);

/** What was delivered: the file that the descriptor is open on, and the meta as text. */
type Delivery = [file: string, meta: string | null];

/** A connection of ours, its peer, and descriptors of files that can be told apart and counted. */
class Scene implements Disposable {
  readonly directory = new Directory();
  /** Descriptors of the files "0", "1" and "2". */
  readonly fds: Fd[];
  readonly conn: UnixConn;
  readonly peer: UnixConn;
  readonly delivered: Delivery[] = [];

  constructor() {
    this.fds = ["0", "1", "2"].map((name) => {
      Deno.writeTextFileSync(this.directory.join(name), name);
      using file = Deno.openSync(this.directory.join(name));
      return fileDescriptor(file);
    });
    [this.conn, this.peer] = connectedPair();
  }

  /** Has the peer send these bytes with the descriptors of these files, in one message. */
  says(bytes: Uint8Array, ...files: number[]): void {
    sendRaw(this.peer, bytes, files.map((i) => this.fds[i].raw));
  }

  /** Writes down a delivery; a callback for what receives. */
  readonly note = (fd: Fd, meta: Uint8Array | null): void => {
    this.delivered.push([this.#fileOf(fd.raw)!, meta && new TextDecoder().decode(meta)]);
  };

  /** Receives to the end of what the peer said. */
  receive(options?: ReceiveOptions): Promise<number> {
    return receiveAllFrom(this.conn, this.note, options);
  }

  /** How many descriptors of its files are open beside its own. */
  get held(): number {
    return openDescriptors().filter((raw) => this.#fileOf(raw) !== undefined).length -
      this.fds.length;
  }

  #fileOf(raw: number): string | undefined {
    const path = describeDescriptor(raw);
    return path?.startsWith(this.directory.join("")) ? path.at(-1) : undefined;
  }

  [Symbol.dispose](): void {
    for (const disposable of [this.conn, this.peer, ...this.fds]) disposable[Symbol.dispose]();
    this.directory[Symbol.dispose]();
  }
}

function text(words: string): Uint8Array {
  return new TextEncoder().encode(words);
}

/** The header of a record whose meta is still to come, or never will. */
function header(length: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, length, true);
  return bytes;
}

/** What a promise rejects with, whatever it is. */
async function rejection(promise: Promise<unknown>): Promise<unknown> {
  const nothing = Symbol("nothing");
  const reason = await promise.then(() => nothing, (reason) => reason);
  assert(reason !== nothing, "it did not reject");
  return reason;
}

// Bytes and descriptors that do not line up.

test("bytes without a descriptor are an error at the end", async () => {
  using scene = new Scene();
  scene.says(joined(record(), record("a")));
  scene.peer.close();
  await assertRejects(() => scene.receive(), EmptyControlMessageError, "9 bytes");
  assertEquals(scene.delivered, []);
});

test("descriptors without a record are an error at the end, and closed", async () => {
  using scene = new Scene();
  scene.says(record("a"), 0, 1, 2);
  scene.peer.close();
  await assertRejects(() => scene.receive(), SurplusDescriptorsError, "2 descriptors");
  assertEquals(scene.delivered, [["0", "a"]]);
  assertEquals(scene.held, 0);
});

test("fewer descriptors than records deliver those that came", async () => {
  using scene = new Scene();
  scene.says(joined(record("a"), record("b"), record("c")), 0, 1);
  scene.peer.close();
  await assertRejects(() => scene.receive(), EmptyControlMessageError, "5 bytes");
  assertEquals(scene.delivered, [["0", "a"], ["1", "b"]]);
  assertEquals(scene.held, 0);
});

test("a record waits for its descriptor, and a descriptor for its record", async () => {
  using scene = new Scene();
  scene.says(joined(record("a"), record("b")), 0);
  scene.says(record("c"), 1, 2);
  scene.peer.close();
  assertEquals(await scene.receive(), 3);
  assertEquals(scene.delivered, [["0", "a"], ["1", "b"], ["2", "c"]]);
});

test("a length of 2^32-1 is refused, and no memory is taken for it", async () => {
  using scene = new Scene();
  const announcement = joined(record("a"), header(2 ** 32 - 1), text("the beginning"));
  scene.says(announcement, 0, 1);
  scene.peer.close();
  const before = Deno.memoryUsage();
  const error = await assertRejects(() => scene.receive(), LongReadError);
  const after = Deno.memoryUsage();
  assertStringIncludes(error.message, "4294967295 bytes");
  assertStringIncludes(error.message, "1048576");
  const megabyte = 2 ** 20;
  assert(after.external - before.external < megabyte, "buffers were made");
  assert(after.rss - before.rss < 64 * megabyte, "memory was used");
  assertEquals(scene.delivered, [["0", "a"]]);
  assertEquals(scene.held, 0);
});

test("maxMetaBytes is the longest meta that is received", async () => {
  for (const maxMetaBytes of [0, 10, 5000]) {
    using scene = new Scene();
    const longest = "x".repeat(maxMetaBytes);
    scene.says(record(longest), 0);
    scene.says(record(`${longest}x`), 1);
    scene.peer.close();
    await assertRejects(
      () => scene.receive({ maxMetaBytes }),
      LongReadError,
      `announces ${maxMetaBytes + 1} bytes of meta; the receiver's limit is ${maxMetaBytes}`,
    );
    assertEquals(scene.delivered, [["0", longest || null]]);
    assertEquals(scene.held, 0);
  }
});

test("a length that is too long is refused before its descriptor came", async () => {
  using scene = new Scene();
  scene.says(header(11));
  scene.peer.close();
  await assertRejects(() => scene.receive({ maxMetaBytes: 10 }), LongReadError);
});

// Peers that send without end.

test("a flood of descriptors without records ends before the table is full", async () => {
  using scene = new Scene();
  const flood = Array<number>(253).fill(0);
  scene.says(header(100_000), ...flood);
  for (let i = 0; i < 4; i++) scene.says(new Uint8Array(1), ...flood);
  scene.peer.close();
  await assertRejects(() => scene.receive(), SurplusDescriptorsError, "759 descriptors");
  assertEquals(unreadBytes(scene.conn.fd.raw), 2, "it stopped at the third message");
  assertEquals(scene.delivered, []);
  assertEquals(scene.held, 0);
});

test("a flood of bytes without descriptors ends, the sooner the shorter metas may be", async () => {
  for (const maxMetaBytes of [0, 1 << 16, 1 << 20]) {
    using scene = new Scene();
    let failed = false;
    const receiving = assertRejects(
      () => scene.receive({ maxMetaBytes }),
      EmptyControlMessageError,
      "bytes arrived without a descriptor",
    ).finally(() => failed = true);
    const zeros = new OutgoingMessage(1 << 15);
    let sent = 0;
    // The bound is for a receiver that never says no.
    while (!failed && sent < 1 << 23) {
      const n = zeros.send(scene.peer.fd.raw, 0, zeros.data.length, 0);
      if (n === wouldBlock) await pause(0);
      else sent += n;
    }
    scene.peer.closeWrite();
    await receiving;
    const taken = sent - unreadBytes(scene.conn.fd.raw);
    // What a correct sender may have on its way beside the longest meta, and one read more.
    assert(taken <= maxMetaBytes + 2 ** 17 + 2 ** 16, `took ${taken} bytes`);
    assertEquals(scene.delivered, []);
  }
});

// Peers that stall.

/** Where a peer stops talking. */
const stalls: Record<string, (scene: Scene) => void> = {
  "before it says anything": () => {},
  "inside a length": (scene) => scene.says(new Uint8Array(3), 0),
  "inside a meta": (scene) => scene.says(record("abc").subarray(0, 5), 0),
  "before a descriptor": (scene) => scene.says(record("abc")),
  "after a whole message": (scene) => scene.says(record("abc"), 0),
};

test("receiving from a peer that stalls ends with the signal's reason", async (t) => {
  const ways: Record<string, (scene: Scene, signal: AbortSignal) => Promise<unknown>> = {
    "receiveAllFrom()": (scene, signal) => scene.receive({ signal }),
    "receiveAllFrom() as an iterator": async ({ conn, note }, signal) => {
      for await (const { fd, meta } of receiveAllFrom(conn, { signal })) note(fd, meta);
    },
    "receiveFrom()": async ({ conn, note }, signal) => {
      while (await receiveFrom(conn, note, { signal }));
    },
  };
  for (const [where, stall] of Object.entries(stalls)) {
    for (const [way, receiveBy] of Object.entries(ways)) {
      await t.step(`${way}, ${where}`, async () => {
        using scene = new Scene();
        stall(scene);
        const controller = new AbortController();
        const receiving = rejection(receiveBy(scene, controller.signal));
        await until(() => unreadBytes(scene.conn.fd.raw) === 0);
        // Not even an Error: what it is must not matter.
        const reason = { why: "the deadline" };
        controller.abort(reason);
        // Too late: the signal was first.
        scene.peer.close();
        assertStrictEquals(await receiving, reason);
        assertEquals(scene.delivered, where === "after a whole message" ? [["0", "abc"]] : []);
      });
    }
  }
});

test("a signal that was aborted before ends receiving before it begins", async () => {
  using scene = new Scene();
  using listener = listen(scene.directory.join("app.sock"));
  scene.says(record("a"), 0);
  scene.peer.close();
  const reason = new Error("too late");
  const signal = AbortSignal.abort(reason);
  assertStrictEquals(await rejection(scene.receive({ signal })), reason);
  const { path } = listener.addr;
  assertStrictEquals(await rejection(receive(path!, scene.note, { signal })), reason);
  assertEquals(scene.delivered, []);
});

test("a wait that was aborted at the line between records has lost nothing", async () => {
  using scene = new Scene();
  const controller = new AbortController();
  const receiving = rejection(scene.receive({ signal: controller.signal }));
  controller.abort();
  // Too late for that wait, which does not get it.
  scene.says(record("a"), 0);
  scene.peer.close();
  await receiving;
  assertEquals(await receiveFrom(scene.conn, scene.note), 1);
  assertEquals(scene.delivered, [["0", "a"]]);
});

test("closing the connection ends a wait on it", async () => {
  using scene = new Scene();
  scene.says(record("abc").subarray(0, 5), 0);
  const receiving = rejection(scene.receive());
  await until(() => unreadBytes(scene.conn.fd.raw) === 0);
  scene.conn.close();
  assertInstanceOf(await receiving, Deno.errors.BadResource);
  assertEquals(scene.held, 0);
});

// The kernel's part.

test("descriptors that the kernel drops at RLIMIT_NOFILE are an error that names it", async () => {
  using scene = new Scene();
  using listener = listen(scene.directory.join("app.sock"));
  await using child = new Child(
    "../passing/broken_peer_test.ts",
    ["receive at the limit", listener.addr.path!],
    { openFiles: 120 },
  );
  using conn = await listener.accept();
  await sendTo(conn, scene.fds[0], text("first"));
  assertEquals(await child.line(), "full");
  // As many records as descriptors find room: what was dropped must not be forgotten.
  sendRaw(conn, joined(...Array(3).fill(record())), Array(20).fill(scene.fds[1].raw));
  const { name, message, delivered, held, again } = JSON.parse(await child.line());
  assertEquals(name, ControlTruncatedError.name);
  assertStringIncludes(message, "RLIMIT_NOFILE");
  assertEquals(delivered, 1, "those of a message that is not whole are closed, not delivered");
  assertEquals(held, 0);
  assertEquals(again, "BadResource", "the next record would be paired with another's descriptor");
  assertEquals((await child.ended()).code, 0);
});

/** The child of the test above: it has room for three descriptors when twenty come. */
async function receiveAtTheLimit(path: string): Promise<void> {
  openSignalSockets();
  using conn = await connect(path);
  let delivered = 0;
  let file = "";
  // The first one makes the library open what it waits with.
  await receiveFrom(conn, (fd) => {
    delivered++;
    file = describeDescriptor(fd.raw)!;
  });
  const taken: Fd[] = [];
  try {
    for (;;) taken.push(new Fd(0).dup());
  } catch (error) {
    if ((error as { code?: string }).code !== "EMFILE") throw error;
  }
  for (const fd of taken.splice(0, 3)) fd.close();
  console.log("full");
  const error = await rejection(receiveFrom(conn, () => void delivered++)) as Error;
  for (const fd of taken) fd.close();
  const directory = file.slice(0, -1);
  const held = openDescriptors().filter((raw) => describeDescriptor(raw)?.startsWith(directory));
  const { name, message } = error;
  const again = (await rejection(receiveFrom(conn, () => {})) as Error).name;
  console.log(JSON.stringify({ name, message, delivered, held: held.length, again }));
}

test("other control messages that a socket is set to receive do not displace descriptors", async (t) => {
  // asm-generic/socket.h, since Linux 6.5.
  const SO_PASSPIDFD = 76;
  const options = {
    "credentials before them": [c.SO_PASSCRED],
    "credentials before them, a pidfd after them": [c.SO_PASSCRED, SO_PASSPIDFD],
  };
  for (const [name, wanted] of Object.entries(options)) {
    using scene = new Scene();
    const on = new Uint8Array(Int32Array.of(1).buffer);
    const set = wanted.map((option) =>
      libc().setsockopt(scene.conn.fd.raw, c.SOL_SOCKET, option, on, on.length)
    );
    // An older kernel has no pidfds to announce.
    const ignore = set.some((result) => result < 0);
    await t.step({
      name,
      ignore,
      fn: async () => {
        scene.says(joined(record("a"), record("b")), 0, 1);
        const full = Array.from({ length: 253 }, (_, i) => i % 3);
        scene.says(joined(...full.map((i) => record(`${i}`))), ...full);
        scene.says(text("plain"));
        scene.peer.closeWrite();
        assertEquals(await receiveFrom(scene.conn, scene.note), 2);
        assertEquals(await receiveFrom(scene.conn, scene.note), 253);
        assertEquals(scene.delivered, [
          ["0", "a"],
          ["1", "b"],
          ...full.map((i): Delivery => [`${i}`, `${i}`]),
        ]);
        assertEquals(await scene.conn.readFull(new Uint8Array(5)), text("plain"));
        assertEquals(await scene.conn.read(new Uint8Array(1)), null);
      },
    });
  }
});

test("a peer that closes with unread bytes has ended its stream like any other", async (t) => {
  const writing: Record<string, (scene: Scene) => Promise<unknown>> = {
    "plain bytes": ({ conn }) => conn.write(text("never read")),
    "more than there is room for": ({ conn }) => rejection(conn.write(new Uint8Array(2 ** 20))),
    "a descriptor": ({ conn, fds }) => sendTo(conn, fds[1], text("never read")),
  };
  for (const [name, write] of Object.entries(writing)) {
    await t.step(name, async () => {
      using scene = new Scene();
      scene.says(record("a"), 0);
      const written = write(scene);
      await until(() => unreadBytes(scene.peer.fd.raw) > 0);
      scene.peer.close();
      await written;
      assertEquals(await scene.receive(), 1);
    });
  }
});

test("a peer that reset the connection inside a record is an error", async () => {
  for (const before of [[], [record("a")]]) {
    using scene = new Scene();
    scene.says(joined(...before, text("xyz")), 0, 1);
    await scene.conn.write(text("never read"));
    scene.peer.close();
    await assertRejects(() => scene.receive(), Deno.errors.ConnectionReset);
    assertEquals(scene.delivered, before.map((): Delivery => ["0", "a"]));
    assertEquals(scene.held, 0);
  }
});

// Callbacks and loops that do not want it all.

test("a callback that throws gets nothing more, and the rest is closed", async (t) => {
  const failure = { why: "it did not like the second" };
  const throwing: Record<string, () => void | Promise<void>> = {
    "at once": () => {
      throw failure;
    },
    "later": async () => {
      await pause(0);
      throw failure;
    },
  };
  for (const [name, fail] of Object.entries(throwing)) {
    await t.step(name, async () => {
      using scene = new Scene();
      scene.says(joined(record("a"), record("b"), record("c")), 0, 1, 2);
      scene.says(record("d"), 0);
      scene.peer.close();
      const receiving = receiveAllFrom(scene.conn, (fd, meta) => {
        scene.note(fd, meta);
        if (scene.delivered.length === 2) return fail();
      });
      assertStrictEquals(await rejection(receiving), failure);
      assertEquals(scene.delivered, [["0", "a"], ["1", "b"]]);
      assertEquals(scene.held, 0);
    });
  }
});

test("a callback that throws over receive() closes the connection too", async () => {
  using scene = new Scene();
  const left = Promise.withResolvers<number | null>();
  await using _server = listenAndServe(scene.directory.join("app.sock"), async (conn, response) => {
    await response.write(scene.fds[0]);
    await response.flush();
    left.resolve(await conn.read(new Uint8Array(1)));
  });
  const failure = new Error("on purpose");
  const receiving = receive(scene.directory.join("app.sock"), () => {
    throw failure;
  });
  assertStrictEquals(await rejection(receiving), failure);
  assertEquals(await left.promise, null);
});

test("a descriptor that the callback takes stays open, all others are closed", async () => {
  using scene = new Scene();
  scene.says(joined(record("keep"), record("leave"), record("keep")), 0, 1, 2);
  scene.peer.close();
  const kept: number[] = [];
  const count = await receiveAllFrom(scene.conn, async (fd, meta) => {
    scene.note(fd, meta);
    await pause(0);
    assert(fd.owned, "it stays open until the callback is done");
    if (scene.delivered.at(-1)![1] === "keep") kept.push(fd.take());
  });
  assertEquals(count, 3);
  assertEquals(scene.held, 2);
  const files = kept.map((raw) => describeDescriptor(raw));
  assertEquals(files, [scene.directory.join("0"), scene.directory.join("2")]);
  for (const raw of kept) new Fd(raw).close();
});

test("a loop that is left early closes the descriptors that it did not reach", async (t) => {
  const failure = new Error("on purpose");
  const leaving: Record<string, (all: AsyncIterable<unknown>) => Promise<void>> = {
    "by break": async (all) => {
      for await (const _ of all) break;
    },
    "by return": async (all) => {
      for await (const _ of all) return;
    },
    "by throwing": async (all) => {
      const leave = async () => {
        for await (const _ of all) throw failure;
      };
      assertStrictEquals(await rejection(leave()), failure);
    },
  };
  for (const [name, leave] of Object.entries(leaving)) {
    await t.step(name, async () => {
      using scene = new Scene();
      scene.says(joined(record("a"), record("b"), record("c")), 0, 1, 2);
      await leave(receiveAllFrom(scene.conn));
      assertEquals(scene.held, 0);
      assert(scene.conn.fd.owned, "the connection is not the loop's to close");
    });
  }
});

test("a loop over receive() that is left early closes the connection", async () => {
  using scene = new Scene();
  const left = Promise.withResolvers<number | null>();
  const path = scene.directory.join("app.sock");
  await using _server = listenAndServe(path, async (conn, response) => {
    for (const fd of scene.fds) await response.write(fd);
    await response.flush();
    left.resolve(await conn.read(new Uint8Array(1)));
  });
  for await (const { fd, meta } of receive(path)) {
    scene.note(fd, meta);
    break;
  }
  assertEquals(scene.delivered, [["0", null]]);
  assertEquals(scene.held, 0);
  assertEquals(await left.promise, null);
});

test("a connection that was left inside a message never pairs records anew", async (t) => {
  const sent: Delivery[] = [["0", "a"], ["1", "b"], ["2", "c"], ["0", "d"], ["1", "e"]];
  const failure = new Error("on purpose");
  const leaving: Record<string, (scene: Scene) => Promise<unknown>> = {
    "by break": async ({ conn }) => {
      for await (const _ of receiveAllFrom(conn)) break;
    },
    "by a callback that throws": ({ conn }) =>
      rejection(receiveFrom(conn, () => {
        throw failure;
      })),
    "by a signal": async ({ conn }) => {
      const controller = new AbortController();
      const receiving = rejection(
        receiveAllFrom(conn, () => {}, { signal: controller.signal }),
      );
      await until(() => unreadBytes(conn.fd.raw) === 0);
      controller.abort();
      await receiving;
    },
  };
  const first = joined(record("a"), record("b"), record("c"));
  // Every descriptor comes with the first part, as the kernel has it.
  const cuts = Array.from({ length: first.length - record("a").length }, (_, i) => i + 5);
  for (const [name, leave] of Object.entries(leaving)) {
    for (const cut of cuts) {
      await t.step(`${name}, after ${cut} of ${first.length} bytes`, async () => {
        using scene = new Scene();
        scene.says(first.subarray(0, cut), 0, 1, 2);
        await leave(scene);
        scene.says(first.subarray(cut));
        scene.says(joined(record("d"), record("e")), 0, 1);
        scene.peer.close();
        // Whether it goes on or refuses to: a meta belongs to its own descriptor, or to none.
        await scene.receive().catch(() => {});
        for (const delivery of scene.delivered) {
          const known = sent.some(([file, meta]) => file === delivery[0] && meta === delivery[1]);
          assert(known, `delivered ${delivery}, which was not sent`);
        }
        assertEquals(scene.held, 0);
      });
    }
  }
});

test("a connection that was left at the line between messages goes on", async () => {
  using scene = new Scene();
  scene.says(record("a"), 0);
  scene.says(record("b"), 1);
  for await (const { fd, meta } of receiveAllFrom(scene.conn)) {
    scene.note(fd, meta);
    break;
  }
  assertEquals(await receiveFrom(scene.conn, scene.note), 1);
  assertEquals(scene.delivered, [["0", "a"], ["1", "b"]]);
});

// Nobody there.

test("receive() says that there is no instance, or a dead one", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await assertRejects(() => receive(path, () => {}), Deno.errors.NotFound, path);
  await assertRejects(async () => {
    for await (const _ of receive(path)) { /* nothing comes */ }
  }, Deno.errors.NotFound);
  const listener = listen(path);
  listener.keepPath();
  listener.close();
  await assertRejects(() => receive(path, () => {}), Deno.errors.ConnectionRefused, path);
  await Deno.remove(path);
  await Deno.writeTextFile(path, "not a socket");
  await assertRejects(() => receive(path, () => {}), Deno.errors.ConnectionRefused, path);
});

// Senders that fail.

/** A number that was open and is not: so high that nothing else gets it meanwhile. */
function closedNumber(): number {
  const raw = libc().fcntl(0, c.F_DUPFD_CLOEXEC, 900);
  assert(raw >= 900);
  new Fd(raw).close();
  return raw;
}

test("a descriptor that is closed is named, and none is sent with it", async () => {
  using scene = new Scene();
  const closed = closedNumber();
  await assertRejects(
    () => sendTo(scene.peer, closed, text("closed")),
    Deno.errors.BadResource,
    `descriptor ${closed}`,
  );
  await sendTo(scene.peer, scene.fds[0], text("open"));
  scene.peer.close();
  assertEquals(await scene.receive(), 1);
  assertEquals(scene.delivered, [["0", "open"]]);
});

test("a server whose descriptor was closed does not end the stream as if all was sent", async () => {
  using scene = new Scene();
  const path = scene.directory.join("app.sock");
  const closed = closedNumber();
  const logged: Error[] = [];
  await using _server = listenAndServe(
    path,
    sequenceHandler(
      fdHandler(scene.fds[0], text("a")),
      (_conn, response) => response.flush(),
      fdHandler(scene.fds[1], text("b")),
      fdHandler(closed, text("c")),
      fdHandler(scene.fds[2], text("d")),
    ),
    { logger: { error: (_message, error) => logged.push(error as Error) } },
  );
  await assertRejects(() => receive(path, scene.note), UnexpectedEofError, "The sender gave up");
  assertEquals(scene.delivered, [["0", "a"]]);
  assertEquals(logged.length, 1);
  assertInstanceOf(logged[0], Deno.errors.BadResource);
  assertStringIncludes(logged[0].message, `descriptor ${closed}`);
  assertEquals(scene.held, 0);
});

test("a handler that ignores a failed send does not end the stream as if all was sent", async () => {
  using scene = new Scene();
  const path = scene.directory.join("app.sock");
  const closed = closedNumber();
  const logged: unknown[] = [];
  await using _server = listenAndServe(path, async (_conn, response) => {
    await response.write(closed, text("closed"));
    const error = await assertRejects(() => response.flush(), Deno.errors.BadResource);
    assertStrictEquals(await rejection(response.write(scene.fds[0], text("open"))!), error);
    assertStrictEquals(await rejection(response.flush()), error);
  }, { logger: { error: (_message, error) => logged.push(error) } });
  await assertRejects(() => receive(path, scene.note), UnexpectedEofError);
  assertEquals(scene.delivered, []);
  assertEquals(logged.length, 1);
  assertInstanceOf(logged[0], Deno.errors.BadResource);
});

test("a handler that throws any value does not end the stream as if all was sent", async () => {
  using scene = new Scene();
  const path = scene.directory.join("app.sock");
  const logged: unknown[] = [];
  await using _server = listenAndServe(path, () => {
    throw undefined;
  }, { logger: { error: (_message, error) => logged.push(error) } });
  await assertRejects(() => receive(path, scene.note), UnexpectedEofError);
  assertEquals(logged, [undefined]);
});

test("a meta of 4092 bytes is sent, and one of 4093 is not", async () => {
  using scene = new Scene();
  const error = await assertRejects(
    () => sendTo(scene.peer, scene.fds[0], new Uint8Array(4093)),
    LongWriteError,
  );
  assertStringIncludes(error.message, "4093");
  assertStringIncludes(error.message, "4092");
  assertEquals(unreadBytes(scene.conn.fd.raw), 0);
  await sendTo(scene.peer, scene.fds[1], text("x".repeat(4092)));
  scene.peer.close();
  assertEquals(await scene.receive(), 1);
  assertEquals(scene.delivered, [["1", "x".repeat(4092)]]);
});

test("a server whose meta is too long fails as a whole, or goes on where it is caught", async (t) => {
  const long = text("x".repeat(4093));
  await t.step("not caught", async () => {
    using scene = new Scene();
    const path = scene.directory.join("app.sock");
    const logged: unknown[] = [];
    await using _server = listenAndServe(
      path,
      sequenceHandler(fdHandler(scene.fds[0], text("a")), fdHandler(scene.fds[1], long)),
      { logger: { error: (_message, error) => logged.push(error) } },
    );
    await assertRejects(() => receive(path, scene.note), UnexpectedEofError);
    assertEquals(scene.delivered, []);
    assertInstanceOf(logged[0], LongWriteError);
  });
  await t.step("caught", async () => {
    using scene = new Scene();
    const path = scene.directory.join("app.sock");
    await using _server = listenAndServe(path, async (_conn, response) => {
      await response.write(scene.fds[0], text("a"));
      await assertRejects(() => response.write(scene.fds[1], long), LongWriteError);
      await response.write(scene.fds[2], text("c"));
    });
    assertEquals(await receive(path, scene.note), 2);
    assertEquals(scene.delivered, [["0", "a"], ["2", "c"]]);
  });
});

test("a meta of many reads passes where both sides allow it", async (t) => {
  const maxMetaBytes = 300_000;
  // Different everywhere, so that no part can stand for another.
  const long = Array.from({ length: maxMetaBytes / 6 }, (_, i) => `${i}`.padStart(6, "0")).join("");
  await t.step("over a connection", async () => {
    using scene = new Scene();
    const sending = (async () => {
      await sendTo(scene.peer, scene.fds[0], text(long), { maxMetaBytes });
      await sendTo(scene.peer, scene.fds[1], text("and a short one"));
      scene.peer.closeWrite();
    })();
    assertEquals(await scene.receive({ maxMetaBytes }), 2);
    await sending;
    assertEquals(scene.delivered, [["0", long], ["1", "and a short one"]]);
  });
  await t.step("from a server, among others", async () => {
    using scene = new Scene();
    const path = scene.directory.join("app.sock");
    await using _server = listenAndServe(path, async (_conn, response) => {
      for (let i = 0; i < 300; i++) await response.write(scene.fds[i % 3], text(`${i}`));
      await response.write(scene.fds[0], text(long));
      await response.write(scene.fds[1], text(long.slice(6)));
      for (let i = 0; i < 300; i++) await response.write(scene.fds[i % 3], text(`${i}`));
    }, { maxMetaBytes });
    await receive(path, scene.note, { maxMetaBytes });
    const around = Array.from({ length: 300 }, (_, i): Delivery => [`${i % 3}`, `${i}`]);
    assertEquals(scene.delivered, [...around, ["0", long], ["1", long.slice(6)], ...around]);
  });
  await t.step("and not where the receiver allows less", async () => {
    using scene = new Scene();
    const path = scene.directory.join("app.sock");
    await using _server = listenAndServe(path, fdHandler(scene.fds[0], new Uint8Array(10_000)), {
      maxMetaBytes,
      logger: {},
    });
    await assertRejects(() => receive(path, scene.note, { maxMetaBytes: 9_999 }), LongReadError);
    assertEquals(scene.held, 0);
  });
});

// Receivers that do not read.

/** Of so many messages of 4096 bytes no socket's buffer holds half. */
const many = 400;
const manyDeliveries = Array.from(
  { length: many },
  (_, i): Delivery => [`${i % 3}`, `${i}`.padEnd(4092, ".")],
);

/** Sends all of them, one message each. */
async function sendMany(scene: Scene, progress: { sent: number }, signal?: AbortSignal) {
  for (const [file, meta] of manyDeliveries) {
    await sendTo(scene.peer, scene.fds[Number(file)], text(meta!), { signal });
    progress.sent++;
  }
}

test("a receiver that reads late gets everything in order", async () => {
  using scene = new Scene();
  const progress = { sent: 0 };
  const sending = sendMany(scene, progress).then(() => scene.peer.closeWrite());
  // What does not wait is done within a turn: then the buffer is full.
  await pause(0);
  assert(progress.sent > 0 && progress.sent < many, `${progress.sent} fit into the buffer`);
  assertEquals(await scene.receive(), many);
  await sending;
  assertEquals(scene.delivered, manyDeliveries);
});

test("a server's client that reads late gets everything in order", async () => {
  using scene = new Scene();
  const path = scene.directory.join("app.sock");
  let written = 0;
  await using _server = listenAndServe(path, async (_conn, response) => {
    for (const [file, meta] of manyDeliveries) {
      await response.write(scene.fds[Number(file)], text(meta!));
      written++;
    }
  });
  using conn = await connect(path);
  await until(() => written > 0);
  await pause(0);
  assert(written < many, "all fit into the buffer");
  // Meanwhile another one is served, to the end.
  await receive(path, scene.note);
  assertEquals(scene.delivered.splice(0), manyDeliveries);
  await receiveAllFrom(conn, scene.note);
  assertEquals(scene.delivered, manyDeliveries);
});

test("a sender that is aborted while the buffer is full leaves whole messages", async () => {
  using scene = new Scene();
  const progress = { sent: 0 };
  const controller = new AbortController();
  const sending = rejection(sendMany(scene, progress, controller.signal));
  await pause(0);
  const { sent } = progress;
  const reason = { why: "the deadline" };
  controller.abort(reason);
  assertStrictEquals(await sending, reason);
  scene.peer.close();
  assertEquals(await scene.receive(), sent);
  assertEquals(scene.delivered, manyDeliveries.slice(0, sent));
});

test("a sender that is aborted inside a message delivers nothing of it", async () => {
  using scene = new Scene();
  const maxMetaBytes = 600_000;
  const controller = new AbortController();
  const sending = rejection(
    sendTo(scene.peer, scene.fds[0], new Uint8Array(maxMetaBytes), {
      maxMetaBytes,
      signal: controller.signal,
    }),
  );
  await pause(0);
  assert(unreadBytes(scene.conn.fd.raw) > 0, "a part of it went out");
  const reason = new Error("the deadline");
  controller.abort(reason);
  assertStrictEquals(await sending, reason);
  scene.peer.close();
  await assertRejects(() => scene.receive(), UnexpectedEofError, "of the 600000 bytes");
  assertEquals(scene.delivered, []);
  assertEquals(scene.held, 0);
});

test("a connection that was left inside a message carries no other in its place", async () => {
  using scene = new Scene();
  const maxMetaBytes = 600_000;
  const letters = ["a", "b"].map((letter) => letter.repeat(maxMetaBytes));
  const controller = new AbortController();
  const sending = rejection(
    sendTo(scene.peer, scene.fds[0], text(letters[0]), {
      maxMetaBytes,
      signal: controller.signal,
    }),
  );
  await pause(0);
  controller.abort();
  await sending;
  // A receiver that gives up leaves, so that nobody waits for it.
  const receiving = scene.receive().catch(() => {}).finally(() => scene.conn.close());
  // Whether it goes on or refuses to: no meta is made of two.
  await sendTo(scene.peer, scene.fds[1], text(letters[1]), { maxMetaBytes }).catch(() => {});
  scene.peer.close();
  await receiving;
  for (const [file, meta] of scene.delivered) {
    assert(meta === letters[Number(file)], `a meta of ${meta?.length} that was not sent`);
  }
});

test("concurrent sends do not mix", async () => {
  using scene = new Scene();
  const maxMetaBytes = 600_000;
  const letters = ["a", "b"].map((letter) => letter.repeat(maxMetaBytes));
  const incoming = new IncomingMessage(1 << 16);
  const arrived: Uint8Array[] = [];
  let descriptors = 0;
  /** Takes what the socket holds, at once; false at the end. */
  const drain = () => {
    let n: number;
    while ((n = incoming.receive(scene.conn.fd.raw)) > 0) {
      arrived.push(incoming.data.slice(0, n));
      descriptors += incoming.count;
      closeAll(incoming.descriptors.subarray(0, incoming.count));
    }
    return n !== 0;
  };
  const first = sendTo(scene.peer, scene.fds[0], text(letters[0]), { maxMetaBytes });
  await pause(0);
  // There is room again, which the first does not know yet.
  drain();
  const second = sendTo(scene.peer, scene.fds[1], text(letters[1]), { maxMetaBytes });
  const sending = Promise.all([first, second]).then(() => scene.peer.close());
  await until(() => !drain());
  await sending;
  assertEquals(descriptors, 2);
  const stream = new TextDecoder("latin1").decode(joined(...arrived));
  const whole = letters.map((meta) => new TextDecoder("latin1").decode(record(meta)));
  assert(stream === whole.join(""), "they are not one after the other");
});

test("a sender that waits for another one is aborted by its own signal", async () => {
  using scene = new Scene();
  const maxMetaBytes = 600_000;
  const long = "a".repeat(maxMetaBytes);
  const first = sendTo(scene.peer, scene.fds[0], text(long), { maxMetaBytes });
  await pause(0);
  const controller = new AbortController();
  const { signal } = controller;
  const outcomes: unknown[] = [];
  const waiting = [
    sendTo(scene.peer, scene.fds[1], text("b"), { signal }),
    scene.peer.write(text("plain"), { signal }),
  ].map((one) => one.catch((reason) => void outcomes.push(reason)));
  const last = sendTo(scene.peer, scene.fds[2], text("c"));
  await pause(0);
  const reason = { why: "the deadline" };
  controller.abort(reason);
  await pause(0);
  // By now, while the first still waits: nobody has read anything.
  const ended = [...outcomes];
  const sending = Promise.all([first, ...waiting, last]).then(() => scene.peer.close());
  await scene.receive();
  await sending;
  assertEquals(scene.delivered, [["0", long], ["2", "c"]]);
  assertEquals(ended.length, 2, "they waited in spite of the signal");
  for (const outcome of ended) assertStrictEquals(outcome, reason);
});

test("a client that closes with unread bytes does not disturb other clients", async () => {
  using scene = new Scene();
  const path = scene.directory.join("app.sock");
  const logged: unknown[] = [];
  let written = 0;
  await using server = listenAndServe(path, async (_conn, response) => {
    for (const [file, meta] of manyDeliveries) {
      await response.write(scene.fds[Number(file)], text(meta!));
      written++;
    }
  }, { logger: { error: (_message, error) => logged.push(error) } });
  {
    using _before = await connect(path);
  }
  {
    using _meanwhile = await connect(path);
    await until(() => written > many / 100);
  }
  await until(() => logged.length === 2);
  for (const error of logged) assertInstanceOf(error, Deno.errors.BrokenPipe);
  assertEquals(await receive(path, scene.note), many);
  await server.shutdown();
  assertEquals(logged.length, 2);
});
