/**
 * The lock of a control path: waiting for it, its file, and the users that may lock it.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { closeRaw } from "../../ffi/fd.ts";
import { lockFile, pathStatus, unlockFile } from "../../ffi/file.ts";
import { locked } from "../../lib/generation/path_lock.ts";
import { HandoverError, type Logger, start, type StartOptions } from "../../mod.ts";
import { begin } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const nobody = 65534;
const isRoot = Deno.uid() === 0;
if (!isRoot) console.log("path_lock_test.ts: only root can be a second user: that is not tested");

/** Keeps warnings and errors. */
class Log implements Logger {
  readonly lines: string[] = [];

  warn(message: string): void {
    this.lines.push(message);
  }

  error(message: string): void {
    this.lines.push(message);
  }
}

/** Holds the lock of a path until the end of its block. */
class Held implements Disposable {
  readonly #lock: string;
  readonly #raw: number;

  constructor(path: string) {
    this.#lock = `${path}.lock`;
    this.#raw = lockFile(this.#lock, "Cannot hold a lock")!;
  }

  [Symbol.dispose](): void {
    unlockFile(this.#lock, this.#raw);
  }
}

test("start() warns while another process holds the lock, and rejects after `peerTimeout`; both name the process", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new Log();
  using _held = new Held(path);
  const error = await assertRejects(
    () => begin(path, { peerTimeout: 200, logger: log }),
    HandoverError,
  );
  assertEquals(error.code, "ERR_HANDOVER_TIMEOUT");
  const holder =
    `process ${Deno.pid} \\("[^"]+"\\) holds "${path}\\.lock": if it is not about to start or to stop`;
  assertMatch(
    error.message,
    new RegExp(`^Cannot lock the control path "${path}" within 200 ms: ${holder}`),
  );
  assertEquals(log.lines.length, 1);
  assertMatch(
    log.lines[0],
    new RegExp(`^Waiting for \\d+ ms to lock the control path .*: ${holder}`),
  );
});

test("start() stops waiting for the lock when its signal is aborted, and goes on when the lock is free", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const ended = new AbortController();
  const reason = new Error("enough");
  const held = new Held(path);
  const starting = begin(path, { signal: ended.signal }).catch((error) => error);
  ended.abort(reason);
  assertEquals(await starting, reason);
  const patient = begin(path);
  held[Symbol.dispose]();
  const app = await patient;
  await app.stop();
  assertEquals(directory.names(), []);
});

test("a handover takes no lock", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  await old.ready();
  {
    using _held = new Held(path);
    const next = await begin(path, { peerTimeout: 1000 });
    await next.ready();
    await old.finished;
    assertEquals(next.generation, 2);
    const third = await begin(path);
    await third.ready();
    await next.finished;
    void third.stop();
    await until(() => third.status().state === "draining");
  }
  await until(() => directory.names().length === 0);
});

test("locked() runs one step at a time, also after one that throws, and removes the file", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const options = { timeout: 60_000, logger: {} };
  let inside = 0;
  let most = 0;
  const step = async () => {
    inside++;
    most = Math.max(most, inside);
    await new Promise((resolve) => setTimeout(resolve, 1));
    inside--;
  };
  await Promise.all(Array.from({ length: 30 }, () => locked(path, step, options)));
  assertEquals(most, 1);
  const failing = () => {
    throw new Error("on purpose");
  };
  await assertRejects(() => locked(path, failing, options), Error, "on purpose");
  assertEquals(directory.names(), []);
});

test("lockFile() of several processes gives the lock to one at a time", async () => {
  using directory = new Directory();
  const args = [directory.join("app.sock.lock"), directory.join("inside"), "5000"];
  await using one = new Child("./lock_often.ts", args);
  await using two = new Child("./lock_often.ts", args);
  await using three = new Child("./lock_often.ts", args);
  assertEquals([await one.line(), await two.line(), await three.line()], ["0", "0", "0"]);
  assertEquals(directory.names(), []);
});

test("unlockFile() does not remove a lock file that another process has created anew", () => {
  using directory = new Directory();
  const lock = directory.join("app.sock.lock");
  const first = lockFile(lock, "Cannot lock")!;
  Deno.removeSync(lock);
  // As another process would create it anew.
  const second = lockFile(lock, "Cannot lock")!;
  assertEquals(lockFile(lock, "Cannot lock"), undefined);
  unlockFile(lock, first);
  assertEquals(directory.names(), ["app.sock.lock"]);
  unlockFile(lock, second);
  assertEquals(directory.names(), []);
});

test("lockFile() creates a file that every user can lock, whatever the umask, and locks one that a killed process has left", () => {
  using directory = new Directory();
  const lock = directory.join("app.sock.lock");
  const umask = Deno.umask(0o077);
  try {
    const raw = lockFile(lock, "Cannot lock")!;
    assertEquals(pathStatus(lock)!.mode, 0o644);
    // A process that is killed leaves the file.
    closeRaw(raw);
  } finally {
    Deno.umask(umask);
  }
  const again = lockFile(lock, "Cannot lock")!;
  unlockFile(lock, again);
  assertEquals(directory.names(), []);
});

test("start() names a directory or link at the path of the lock, and a missing directory, with advice", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const lock = `${path}.lock`;
  const target = directory.join("target");
  Deno.mkdirSync(lock);
  const what = `Cannot lock the control path "${path}" by "${lock}"`;
  const fails = async (words: string, options?: StartOptions) => {
    const error = await assertRejects(() => begin(path, options)) as Error;
    assert(error.message.startsWith(what) && error.message.includes(words), error.message);
  };
  await fails("there is a directory in its place");
  Deno.removeSync(lock);
  Deno.symlinkSync(target, lock);
  await fails("it is a symbolic link");
  Deno.removeSync(lock);
  assertEquals(directory.names(), [], "nothing was made through the link");
  const missing = directory.join("missing/app.sock");
  await assertRejects(
    () => begin(missing),
    Deno.errors.NotFound,
    `finds no directory "${directory.join("missing")}"; create it`,
  );
  await assertRejects(() => start("\0name"), TypeError, '"@name"');
});

test("the owner of the directory can start after a process of root was killed with the lock", {
  ignore: !isRoot,
}, async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  // As a killed process leaves it.
  closeRaw(lockFile(`${path}.lock`, "Cannot lock")!);
  Deno.chownSync(directory.path, nobody, nobody);
  await using child = new Child("./serve_unix_path.ts", [
    path,
    directory.join("web.sock"),
    String(nobody),
  ]);
  assertEquals(await child.line(), "started: 1");
  await child.tell("stop");
  await until(() => directory.names().length === 0);
});

test(
  "a user that `mode` and `allow` admit takes over without permission to create files in the directory",
  {
    ignore: !isRoot,
  },
  async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const web = directory.join("web.sock");
    Deno.chmodSync(directory.path, 0o755);
    const old = await begin(path, { mode: 0o666, allow: () => true });
    old.serve({ path: web }, () => new Response());
    await old.ready();
    await using child = new Child("./serve_unix_path.ts", [path, web, String(nobody)]);
    assertEquals(await child.line(), "started: 2");
    await child.tell("serve");
    assertEquals(await child.line(), "ready");
    await old.stop();
  },
);
