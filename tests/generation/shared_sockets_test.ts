/**
 * Sockets that a service manager passes to several processes.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { c } from "../../ffi/abi.ts";
import { dup, isNonblocking, setNonblocking } from "../../ffi/fd.ts";
import { libc } from "../../ffi/libc.ts";
import { openDescriptors } from "../../ffi/proc.ts";
import { socketCookie } from "../../ffi/socket_options.ts";
import { activated, hasPython, HeldSockets } from "../support/activation.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { askOnce } from "../support/http1_client.ts";
import { Load } from "../support/load.ts";
import { listenLoopback } from "../support/loopback.ts";
import { asked, Service, tcp } from "../support/unit_service.ts";
import { until } from "../support/until.ts";

const ignore = !hasPython;
if (ignore) console.log("shared_sockets_test.ts: without python3, no process gets descriptors");

/** The numbers of a process that are duplicates of a socket (proc(5)). */
function duplicates(pid: number, raw: number): number[] {
  const own = Deno.readLinkSync(`/proc/self/fd/${raw}`);
  return [...Deno.readDirSync(`/proc/${pid}/fd`)].map(({ name }) => Number(name)).filter((fd) => {
    try {
      return Deno.readLinkSync(`/proc/${pid}/fd/${fd}`) === own;
    } catch {
      // It was closed meanwhile.
      return false;
    }
  });
}

test("a generation that is started with its predecessor's sockets uses those, and gets new ones", {
  ignore,
}, async () => {
  using directory = new Directory();
  const [web, added] = [listenLoopback(64), listenLoopback(64)];
  await using first = new HeldSockets([[dup(web.raw), "web.socket"]]);
  await using both = new HeldSockets([[added.raw, "added.socket"], [web.raw, "web.socket"]]);
  const serve = ["--serve", JSON.stringify({ hostname: "127.0.0.1", port: web.port })];
  const serveAdded = ["--serve", JSON.stringify({ name: "added.socket" })];
  await using old = new Service(directory, [first.argument], serve);
  const before = await old.serving();
  const usual = duplicates(before, web.raw).length;
  const load = new Load(tcp(web.port));
  await load.more(50);
  await using next = new Service(directory, [both.argument], [...serve, ...serveAdded]);
  const after = await next.serving(2);
  await old.until("finished: 1");
  await load.more(50);
  assertEquals([await load.stop(), [...load.failures]], [0, []]);
  assertEquals(await asked(tcp(web.port)), "2");
  assertEquals(await asked(tcp(added.port)), "2 added.socket");
  // The manager's own duplicate is closed: none is left that nothing accepts on.
  assertEquals(duplicates(after, web.raw).length, usual);
  // Nothing was asked for in vain, so nothing is warned about.
  const { stdout } = await ended(next);
  assertEquals(stdout.filter((line) => line.startsWith("warning")), []);
});

/** Stops a service, and waits for its end. */
async function ended(service: Service) {
  await service.stopped();
  return await service.ended();
}

test(
  "a socket that is new to a later generation and is not asked for is closed",
  { ignore },
  async () => {
    using directory = new Directory();
    const [web, added] = [listenLoopback(64), listenLoopback(64)];
    await using first = new HeldSockets([[dup(web.raw), "web.socket"]]);
    await using both = new HeldSockets([[added.raw, "added.socket"], [web.raw, "web.socket"]]);
    const serve = ["--serve", JSON.stringify({ hostname: "127.0.0.1", port: web.port })];
    await using old = new Service(directory, [first.argument], serve);
    await old.serving();
    await using next = new Service(directory, [both.argument], serve);
    const pid = await next.serving(2);
    assertMatch(await next.until(/^warning: /), new RegExp(`^warning: Closed .*:${added.port}`));
    assertEquals(duplicates(pid, added.raw), []);
    await ended(next);
  },
);

/** Clears O_NONBLOCK of a socket again and again, as a manager that starts other units. */
class Blocking implements Disposable {
  readonly #timer: ReturnType<typeof setInterval>;
  /** How often the flag was set. */
  found = 0;

  constructor(raw: number) {
    this.#timer = setInterval(() => {
      if (isNonblocking(raw)) this.found++;
      setNonblocking(raw, false);
    }, 30);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

test("O_NONBLOCK that another process clears under load does not stop a generation, nor the next", {
  ignore,
}, async () => {
  using directory = new Directory();
  const { raw, port } = listenLoopback(64);
  await using sockets = new HeldSockets([[raw, "web.socket"]]);
  const serve = ["--serve", JSON.stringify({ hostname: "127.0.0.1", port })];
  await using service = new Service(directory, [sockets.argument], serve);
  await service.serving();
  using blocking = new Blocking(raw);
  const load = new Load(tcp(port), 2);
  await until(() => blocking.found >= 5);
  await load.more(100);
  await service.restarted(2);
  blocking.found = 0;
  await until(() => blocking.found >= 5);
  await load.more(100);
  assertEquals([await load.stop(), [...load.failures]], [0, []]);
});

test("a control: a plain listener on a number hangs when another process clears O_NONBLOCK", {
  ignore,
}, async () => {
  const { raw, port } = listenLoopback(64);
  await using sockets = new HeldSockets([[raw, "web.socket"]]);
  const through = activated(sockets.argument);
  await using child = new Child("./plain_listener.ts", [], { through });
  await child.until("serving");
  assertEquals((await askOnce(tcp(port))).body, "plain");
  await child.tell("are you here?");
  await child.until("here");
  setNonblocking(raw, false);
  // This one wakes accept(2) a last time; the next call blocks the event loop.
  await askOnce(tcp(port)).catch(() => {});
  await child.tell("are you here?");
  const answered = child.until("here").then(() => true, () => false);
  const late = new Promise<boolean>((resolve) => setTimeout(() => resolve(false), 1000));
  assertEquals(await Promise.race([answered, late]), false);
});

/** For how long a blocking call on a socket waits, in microseconds; 0 is for ever (socket(7), SO_RCVTIMEO). */
function blockingTime(raw: number): bigint {
  const time = new BigInt64Array(2);
  const bytes = new Uint8Array(time.buffer);
  const length = new Uint8Array(new Uint32Array([bytes.length]).buffer);
  assertEquals(libc().getsockopt(raw, c.SOL_SOCKET, c.SO_RCVTIMEO, bytes, length), 0);
  return 1_000_000n * time[0] + time[1];
}

test("the sockets of a socket unit are as before after stop(): the manager may start another", {
  ignore,
}, async () => {
  using directory = new Directory();
  const { raw, port } = listenLoopback(64);
  const cookie = socketCookie(raw);
  await using sockets = new HeldSockets([[raw, "web.socket"]]);
  const serve = ["--serve", JSON.stringify({ hostname: "127.0.0.1", port })];
  for (let starts = 0; starts < 2; starts++) {
    await using service = new Service(directory, [sockets.argument], serve);
    await service.serving();
    assertEquals(await asked(tcp(port)), "1");
    assert(blockingTime(raw) > 0n);
    await service.restarted(2);
    assert(blockingTime(raw) > 0n);
    await ended(service);
    // The next program of the unit may block in accept(2).
    assertEquals(blockingTime(raw), 0n);
  }
  assert(openDescriptors().includes(raw));
  assertEquals(socketCookie(raw), cookie);
});
