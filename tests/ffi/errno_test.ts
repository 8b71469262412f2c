import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { c, errnos } from "../../ffi/abi.ts";
import { check, errno, errnoName, systemError, uninterrupted } from "../../ffi/errno.ts";
import { closeAll } from "../../ffi/fd.ts";
import { libc } from "../../ffi/libc.ts";
import { connectUnix, listenUnix, socketPair } from "../../ffi/socket.ts";
import { test } from "../support/guard.ts";

test("an errno becomes the class that Deno itself uses for it, with its name as code", () => {
  const e = Deno.errors;
  const expected: Record<string, new (...args: never[]) => Error> = {
    ENOENT: e.NotFound,
    EACCES: e.PermissionDenied,
    EPERM: e.PermissionDenied,
    ECONNREFUSED: e.ConnectionRefused,
    ECONNRESET: e.ConnectionReset,
    ECONNABORTED: e.ConnectionAborted,
    ENOTCONN: e.NotConnected,
    EADDRINUSE: e.AddrInUse,
    EADDRNOTAVAIL: e.AddrNotAvailable,
    EPIPE: e.BrokenPipe,
    EEXIST: e.AlreadyExists,
    EAGAIN: e.WouldBlock,
    EINVAL: TypeError,
    ETIMEDOUT: e.TimedOut,
    EINTR: e.Interrupted,
    EBADF: e.BadResource,
    EBUSY: e.Busy,
    ENOTDIR: e.NotADirectory,
    EISDIR: e.IsADirectory,
    ELOOP: e.FilesystemLoop,
    ENETUNREACH: e.NetworkUnreachable,
    EOPNOTSUPP: e.NotSupported,
    EMFILE: Error,
    ENOSPC: Error,
  };
  for (const [name, expectedClass] of Object.entries(expected)) {
    const error = systemError(errnos[name], "Cannot try");
    assertStrictEquals(error.constructor, expectedClass, name);
    assertEquals(error.code, name);
  }
});

test("the message has the attempt, the reason and the name of the errno", () => {
  const error = systemError(errnos.EADDRINUSE, `Cannot listen on "/run/a.sock"`);
  assertEquals(
    error.message,
    `Cannot listen on "/run/a.sock": Address already in use (EADDRINUSE)`,
  );
});

test("the classes are the ones that Deno throws for the same refusals", async () => {
  const nowhere = "/nonexistent/a.sock";
  const native = await Deno.connect({ transport: "unix", path: nowhere }).catch((error) => error);
  const ours = assertThrows(() => connectUnix(nowhere, "Cannot connect"), Error);
  assertStrictEquals(ours.constructor, native.constructor);

  const path = `\0errno-${crypto.randomUUID()}`;
  const raw = listenUnix(path, "Cannot listen");
  const taken = assertThrows(() => Deno.listen({ transport: "unix", path }), Error);
  const oursTaken = assertThrows(() => listenUnix(path, "Cannot listen"), Error);
  assertStrictEquals(oursTaken.constructor, taken.constructor);
  closeAll([raw]);
});

test("an errno without a name here still gives an error that shows it", () => {
  assertEquals(errnoName(errnos.EPIPE), "EPIPE");
  assertEquals(errnoName(999), "errno 999");
  const error = systemError(999, "Cannot try");
  assertStrictEquals(error.constructor, Error);
  assertEquals(error.code, "errno 999");
  assert(error.message.startsWith("Cannot try: "), error.message);
  assert(error.message.endsWith("(errno 999)"), error.message);
});

test("every errno has a text of its own", () => {
  const texts = Object.values(errnos).map((code) => systemError(code, "").message);
  assertEquals(new Set(texts).size, texts.length);
  assertEquals(texts.filter((text) => /Unknown error|\0/.test(text)), []);
});

test("a cause is kept, and none is made up", () => {
  const cause = new Error("before");
  assertStrictEquals(systemError(errnos.EIO, "Cannot try", cause).cause, cause);
  assertEquals("cause" in systemError(errnos.EIO, "Cannot try"), false);
});

test("check() gives the result of a call that worked and does not word the attempt", () => {
  const attempt = () => {
    throw new Error("worded for nothing");
  };
  assertEquals([check(0, attempt), check(7, attempt)], [0, 7]);
});

test("check() throws the error of the failed call's errno, with a text or a function for the attempt", () => {
  for (const attempt of ["Cannot close it", () => "Cannot close it"]) {
    const error = assertThrows(() => check(libc().close(-1), attempt), Deno.errors.BadResource);
    assertEquals(error.message, "Cannot close it: Bad file descriptor (EBADF)");
  }
});

test("errno() is the one of the last call that failed", () => {
  const [a, b] = socketPair();
  assertEquals(libc().close(-1), -1);
  assertEquals(errno(), errnos.EBADF);
  assertEquals(libc().listen(a, 1), -1);
  assertEquals(errno(), errnos.EINVAL);
  assertEquals(libc().fcntl(a, c.F_GETFD, 0) >= 0, true);
  closeAll([a, b]);
});

/** Sets errno as a failing call would. */
function setErrno(value: number): void {
  const { __errno_location } = libc();
  const at = Deno.UnsafePointer.create(BigInt(__errno_location()));
  new Int32Array(Deno.UnsafePointerView.getArrayBuffer(at!, 4))[0] = value;
}

/** A call that fails with each errno in turn, and then gives `result`. */
function failing(fails: number[], result: number | bigint) {
  const calls: unknown[][] = [];
  const call = (...args: unknown[]): number | bigint => {
    const code = fails[calls.length];
    calls.push(args);
    if (code === undefined) return result;
    setErrno(code);
    return -1;
  };
  return { call, calls };
}

test("uninterrupted() repeats a call that a signal has interrupted", () => {
  const { call, calls } = failing([errnos.EINTR, errnos.EINTR, errnos.EINTR], 5n);
  assertEquals(uninterrupted(call), 5);
  assertEquals(calls.length, 4);
});

test("uninterrupted() repeats a call that failed with an errno of another call", () => {
  const { call, calls } = failing([errnos.ENOENT, errnos.EINTR], 5n);
  assertEquals(uninterrupted(call, errnos.ENOENT), 5);
  assertEquals(calls.length, 3);
  // Without being told so, it is the call's.
  assertEquals(uninterrupted(failing([errnos.ENOENT], 5n).call), -1);
});

test("uninterrupted() gives back any other failure, with its errno unchanged", () => {
  const { call, calls } = failing([errnos.EINTR, errnos.EAGAIN, errnos.EINTR], 5);
  assertEquals(uninterrupted(call), -1);
  assertEquals(errno(), errnos.EAGAIN);
  assertEquals(calls.length, 2);
});

test("uninterrupted() does not repeat a call that succeeded, whatever errno an earlier call left", () => {
  const { call, calls } = failing([], 0);
  setErrno(errnos.EINTR);
  assertEquals(uninterrupted(call), 0);
  assertEquals(calls.length, 1);
});
