import { assert, assertEquals, assertMatch } from "@std/assert";
import { dup, Fd } from "../../ffi/fd.ts";
import { notify } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { MessageLog } from "../support/kept_log.ts";
import { NotifySocket } from "../support/notify_socket.ts";
import { Sockets } from "../support/raw.ts";

/** Calls `notify()`, which must not warn. */
function sent(state: string, descriptors: Iterable<Fd | number> = []): boolean {
  const logger = new MessageLog();
  const result = notify(state, descriptors, { logger });
  assertEquals([logger.warnings, logger.errors], [[], []]);
  return result;
}

/** Calls `notify()`, which must give false and warn once; returns the warning. */
function refused(state: string, descriptors: Iterable<Fd | number> = []): string {
  const logger = new MessageLog();
  assertEquals(notify(state, descriptors, { logger }), false);
  assertEquals(logger.errors, []);
  assertEquals(logger.warnings.length, 1);
  return logger.warnings[0];
}

for (const kind of ["a path", "an abstract name"]) {
  test(`notify() sends text and descriptors to ${kind}`, () => {
    using directory = new Directory();
    using sockets = new Sockets(2);
    const at = kind === "a path" ? directory.join("notify") : `\0notify-${crypto.randomUUID()}`;
    using manager = new NotifySocket(at);
    assert(sent("READY=1\nSTATUS=Grüße"));
    using fd = new Fd(dup(sockets.raws[1]));
    assert(sent("FDSTORE=1\nFDNAME=a b", [sockets.raws[0], fd]));
    assertEquals(manager.received(), [
      { text: "READY=1\nSTATUS=Grüße", cookies: [] },
      { text: "FDSTORE=1\nFDNAME=a b", cookies: sockets.cookies },
    ]);
    // The manager has duplicates: these stay open.
    assertEquals(sockets.cookies.length, 2);
    assert(fd.owned);
  });
}

test("253 descriptors are sent; 254 are refused with a warning", () => {
  using directory = new Directory();
  using manager = new NotifySocket(directory.join("notify"));
  using sockets = new Sockets(1);
  const many = Array<number>(253).fill(sockets.raws[0]);
  assert(sent("FDSTORE=1", many));
  const [{ cookies }] = manager.received();
  assertEquals(cookies, Array(253).fill(sockets.cookies[0]));
  assertMatch(
    refused("FDSTORE=1", [...many, sockets.raws[0]]),
    /254 descriptors, where 253 at most/,
  );
  assertEquals(manager.received(), []);
});

test("4,000 bytes are sent; 4,001, and none, are refused with a warning", () => {
  using directory = new Directory();
  using manager = new NotifySocket(directory.join("notify"));
  // Two bytes each in UTF-8.
  const text = "ä".repeat(2000);
  assert(sent(text));
  assertEquals(manager.received(), [{ text, cookies: [] }]);
  assertMatch(refused(`${text}.`), /it has 4001 bytes, where 1 to 4000 belong/);
  assertMatch(refused(""), /it has 0 bytes/);
  assertEquals(manager.received(), []);
});

test("without NOTIFY_SOCKET, and with an empty one, notify() gives false and does not warn", () => {
  Deno.env.delete("NOTIFY_SOCKET");
  assertEquals(sent("READY=1", [-1]), false);
  Deno.env.set("NOTIFY_SOCKET", "");
  try {
    assertEquals(sent("READY=1"), false);
  } finally {
    Deno.env.delete("NOTIFY_SOCKET");
  }
});

test("a manager that has ended, or has removed its path, is warned about", () => {
  using directory = new Directory();
  const path = directory.join("notify");
  using manager = new NotifySocket(path);
  manager.close();
  assertMatch(refused("READY=1"), /^Cannot tell the service manager "READY=1": .*notify/);
  Deno.removeSync(path);
  assertMatch(refused("READY=1"), /^Cannot tell the service manager "READY=1": .*notify/);
});

test("a full queue is waited for as long as is documented, and not longer", () => {
  using directory = new Directory();
  using manager = new NotifySocket(directory.join("notify"));
  const quiet = { warn() {} };
  let queued = 0;
  let waited = 0;
  for (;;) {
    const began = performance.now();
    const isSent = notify("WATCHDOG=1", [], { logger: quiet });
    waited = performance.now() - began;
    if (!isSent) break;
    queued++;
  }
  assert(queued > 0);
  // The same wait beside it: another process may have the processor for long.
  const began = performance.now();
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
  const same = performance.now() - began;
  assert(waited >= 95 && waited < 5 * same, `it has waited for ${waited} ms, where ${same} belong`);
  assertMatch(refused("vain"), /it does not read/);
  assertEquals(manager.received().length, queued);
  // There is room again.
  assert(sent("READY=1"));
  assertEquals(manager.received(), [{ text: "READY=1", cookies: [] }]);
});

test("notify() never throws: descriptors that are closed, taken or no numbers", () => {
  using directory = new Directory();
  using manager = new NotifySocket(directory.join("notify"));
  using sockets = new Sockets(1);
  assertMatch(refused("FDSTORE=1", [sockets.raws[0], 999_999]), /Cannot send descriptor 999999/);
  assertMatch(refused("FDSTORE=1", [-1]), /^Cannot tell the service manager "FDSTORE=1"/);
  const taken = new Fd(dup(sockets.raws[0]));
  using again = new Fd(taken.take());
  assertMatch(refused("FDSTORE=1", [taken]), /^Cannot tell the service manager "FDSTORE=1"/);
  assert(again.owned);
  for (const wrong of [NaN, 1.5, "3", null, {}] as unknown as number[]) {
    refused("FDSTORE=1", [wrong]);
  }
  refused("FDSTORE=1", 5 as unknown as number[]);
  refused(undefined as unknown as string);
  assertEquals(manager.received(), []);
});

test("notify() never throws: addresses that are no unix sockets, or lead nowhere", () => {
  const addresses = ["vsock:2:1234", "relative", "@", "/", `/${"x".repeat(200)}`, "/nonexistent"];
  for (const address of addresses) {
    Deno.env.set("NOTIFY_SOCKET", address);
    try {
      refused("READY=1");
    } finally {
      Deno.env.delete("NOTIFY_SOCKET");
    }
  }
});
