import { assertEquals } from "@std/assert";
import { closeAll } from "../../ffi/fd.ts";
import { createEpoll, watch } from "../../ffi/epoll.ts";
import { Registrations, registrations } from "../../ffi/proc.ts";
import { socketPair } from "../../ffi/socket.ts";
import { test } from "../support/guard.ts";

test("Registrations.read() reads the registrations of an epoll any number of times through one descriptor", () => {
  const epoll = createEpoll();
  const raws = [epoll];
  const opened = new Registrations(epoll);
  assertEquals(opened.read(), []);
  // More than one read(2) returns.
  for (let i = 0; i < 200; i++) {
    const [a, b] = socketPair();
    raws.push(a, b);
    watch(epoll, { tfd: a, events: 1, data: BigInt(a) });
  }
  for (let i = 0; i < 3; i++) assertEquals(opened.read(), registrations(epoll));
  assertEquals(opened.read().length, 200);
  closeAll(raws);
  opened[Symbol.dispose]();
});
