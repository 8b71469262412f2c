/**
 * The length of accept queues: of adopted listeners, by `backlog`, and of unix listeners.
 *
 * @module
 */

import { assertEquals, assertThrows } from "@std/assert";
import { closeAll } from "../../ffi/fd.ts";
import { acceptQueueLength, setAcceptQueueLength } from "../../ffi/socket_options.ts";
import { connectUnix } from "../../ffi/socket.ts";
import { listenerDescriptor } from "../../lib/native/descriptor.ts";
import { fdListener, type Generation, serveHttp } from "../../mod.ts";
import { begin, here, saying } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

/** The greatest length that the system allows. */
const longest = Number(Deno.readTextFileSync("/proc/sys/net/core/somaxconn"));

test("adoption makes the accept queue of a TCP listener as long as Deno's own, and never shorter", () => {
  const least = Math.min(511, longest);
  for (const [given, expected] of [[5, least], [1000, Math.min(1000, longest)]]) {
    for (const way of ["fdListener", "serveHttp"]) {
      const made = Deno.listen(here);
      using fd = listenerDescriptor(made);
      setAcceptQueueLength(fd.raw, given);
      made.close();
      using kept = fd.dup();
      assertEquals(acceptQueueLength(kept.raw), Math.min(given, longest));
      const object = way === "fdListener" ? fdListener(fd) : serveHttp(fd, saying("here"));
      assertEquals(acceptQueueLength(kept.raw), expected, way);
      if ("close" in object) object.close();
      else void object.shutdown();
    }
  }
  // A listener of Deno in this process keeps its own length.
  using short = Deno.listen(here);
  using fd = listenerDescriptor(short);
  setAcceptQueueLength(fd.raw, 5);
  const server = serveHttp(short, saying("here"));
  assertEquals(acceptQueueLength(fd.raw), 5);
  return server.shutdown();
});

test("`backlog` sets the length of the accept queue in each generation, also of an inherited listener", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const queue = (listener: Deno.Listener) => {
    using fd = listenerDescriptor(listener);
    return acceptQueueLength(fd.raw);
  };
  let before: Generation | undefined;
  for (const backlog of [5, undefined, 700, 0]) {
    const app = await begin(path);
    const listener = app.listen({ ...here, backlog });
    assertEquals(queue(listener), Math.min(backlog ?? 511, longest));
    const server = app.serve({ hostname: "127.0.0.2", port: 0, backlog }, saying("here"));
    using fd = listenerDescriptor(server);
    assertEquals(acceptQueueLength(fd.raw), Math.min(backlog ?? 511, longest));
    await app.ready();
    await before?.finished;
    before = app;
  }
  assertThrows(() => before!.listen({ ...here, backlog: -1 }), TypeError, "backlog");
  assertThrows(() => before!.listen({ ...here, backlog: 1, tcpBacklog: 2 }), TypeError, "backlog");
  await before!.stop();
});

test("`backlog` sets the length of the accept queue of a unix listener, also of an inherited one", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const web = directory.join("web.sock");
  /** The number of connections that find room while the listener does not accept. */
  const room = () => {
    const conns: number[] = [];
    for (let raw; conns.length < 100 && (raw = connectUnix(web, "Cannot connect")) >= 0;) {
      conns.push(raw);
    }
    closeAll(conns);
    return conns.length;
  };
  const old = await begin(path);
  old.listen({ path: web, backlog: 2 });
  // The kernel has room for one more than the backlog (net/unix/af_unix.c, `unix_recvq_full`).
  assertEquals(room(), 3);
  await old.ready();
  const next = await begin(path);
  next.listen({ path: web, backlog: 60 });
  await next.ready();
  await old.finished;
  // The first three are still waiting.
  assertEquals(3 + room(), 61);
  await next.stop();
});
