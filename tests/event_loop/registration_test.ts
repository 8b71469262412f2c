import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { Fd, isOpen } from "../../ffi/fd.ts";
import { listenUnix, localAddress } from "../../ffi/socket.ts";
import { socketCookie } from "../../ffi/socket_options.ts";
import { capture, denoRegistrations, exchange, place } from "../../lib/event_loop/registration.ts";
import { fdListener, UnsupportedRuntimeError } from "../../mod.ts";
import { test } from "../support/guard.ts";

const listenTcp = () => Deno.listen({ hostname: "127.0.0.1", port: 0 });

/** A unix listener that no native object stands on yet. */
function listening(): { path: string; fd: Fd } {
  const path = `\0capture-${crypto.randomUUID()}`;
  return { path, fd: new Fd(listenUnix(path, "Cannot listen")) };
}

/** Fails unless `listener` hears of connections: the runtime waits where it is registered. */
async function assertAccepts(listener: Deno.Listener): Promise<void> {
  // Accepting first: a connection that was there before would need no event.
  const accepting = listener.accept();
  const { port } = listener.addr as Deno.NetAddr;
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  using accepted = await accepting;
  assertEquals(accepted.remoteAddr, conn.localAddr);
}

/** Fails unless new native listeners and adopted ones work as they did. */
async function assertUnharmed(): Promise<void> {
  using native = listenTcp();
  await assertAccepts(native);
  const { path, fd } = listening();
  using adopted = fdListener(fd);
  const accepting = adopted.accept();
  using _conn = await Deno.connect({ transport: "unix", path });
  (await accepting).close();
}

function fail(): never {
  throw new Error("discarded for nothing");
}

test("capture() gives the dummy, its number and its registration, which the runtime does not have", () => {
  const { dummy, registration } = capture(listenTcp, fail);
  assertEquals(localAddress(registration.tfd), { ...dummy.addr as Deno.NetAddr });
  assertEquals(denoRegistrations().filter(({ tfd }) => tfd === registration.tfd), []);
  using fd = listening().fd;
  place(registration, fd.raw);
  dummy.close();
});

test("place() puts a descriptor there under the same registration, and leaves it with the caller", () => {
  const { dummy, registration } = capture(listenTcp, fail);
  using fd = listening().fd;
  place(registration, fd.raw);
  assertEquals(denoRegistrations().filter(({ tfd }) => tfd === registration.tfd), [registration]);
  assertEquals(socketCookie(registration.tfd), socketCookie(fd.raw));
  dummy.close();
  assertEquals([isOpen(registration.tfd), isOpen(fd.raw)], [false, true]);
});

test("a duplicate of the dummy, such as that of a forked child, keeps no registration", async () => {
  const { dummy, registration } = capture(listenTcp, fail);
  using _child = new Fd(registration.tfd).dup();
  using fd = listening().fd;
  place(registration, fd.raw);
  dummy.close();
  await assertUnharmed();
});

test("exchange() puts another descriptor in a place that is in use", async () => {
  const { dummy, registration } = capture<Deno.Listener>(
    () => Deno.listen({ transport: "unix", path: `\0capture-${crypto.randomUUID()}` }),
    fail,
  );
  const [first, second] = [listening(), listening()];
  using firstFd = first.fd;
  using secondFd = second.fd;
  place(registration, firstFd.raw);
  const accepting = dummy.accept();
  exchange(registration, secondFd.raw);
  assertEquals(denoRegistrations().filter(({ tfd }) => tfd === registration.tfd), [registration]);
  // Nobody takes the first one: the accept is not answered from there any more.
  using _old = await Deno.connect({ transport: "unix", path: first.path });
  using conn = await Deno.connect({ transport: "unix", path: second.path });
  await conn.write(Uint8Array.of(7));
  const accepted = await accepting;
  const byte = new Uint8Array(1);
  assertEquals([await accepted.read(byte), byte[0]], [1, 7]);
  accepted.close();
  dummy.close();
});

test("a maker that registers nothing is a runtime that works otherwise", async () => {
  const made = {};
  const discarded: unknown[] = [];
  const error = assertThrows(
    () => capture(() => made, (dummy) => discarded.push(dummy)),
    UnsupportedRuntimeError,
  );
  assert(error.message.includes("0 registrations"), error.message);
  assert(error.message.includes(Deno.version.deno), error.message);
  assertStrictEquals(discarded[0], made);
  await assertUnharmed();
});

test("a maker that registers two is one too, and both of them work", async () => {
  const made: Deno.Listener[] = [];
  assertThrows(
    () => capture(() => made.push(listenTcp(), listenTcp()), () => {}),
    UnsupportedRuntimeError,
    "2 registrations",
  );
  await Promise.all(made.map(assertAccepts));
  for (const listener of made) listener.close();
  await assertUnharmed();
});

test("capture() rethrows the error of its function, and the runtime's epoll is back in its place", async () => {
  const failure = new Error("not made");
  const thrown = assertThrows(() =>
    capture(() => {
      throw failure;
    }, fail)
  );
  assertStrictEquals(thrown, failure);
  await assertUnharmed();
});

test("a registration that a failed function has made goes back to the runtime", async () => {
  let made: Deno.Listener | undefined;
  assertThrows(
    () =>
      capture(() => {
        made = listenTcp();
        throw new Error("not made");
      }, fail),
    Error,
    "not made",
  );
  try {
    await assertUnharmed();
    await assertAccepts(made!);
  } finally {
    made!.close();
  }
});

test("objects made right after a capture are registered with the runtime", async () => {
  const { dummy, registration } = capture(listenTcp, fail);
  using native = listenTcp();
  using fd = listening().fd;
  place(registration, fd.raw);
  await assertAccepts(native);
  dummy.close();
});

test("on another system adopting says at once where it works", async () => {
  const door = new URL("../../mod.ts", import.meta.url).href;
  const script = `
    Object.defineProperty(Deno, "build", { value: { ...Deno.build, os: "darwin", arch: "aarch64" } });
    const { fdListener } = await import(${JSON.stringify(door)});
    try {
      fdListener(0);
    } catch (error) {
      console.log(error.name, error.message);
    }`;
  const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["eval", script] }).output();
  assertEquals(
    new TextDecoder().decode(stdout).trim(),
    "NotSupported Descriptors are passed on Linux x86_64 and aarch64; this is darwin aarch64",
  );
});
