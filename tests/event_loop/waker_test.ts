import { setImmediate as immediately } from "node:timers/promises";
import { assert, assertEquals } from "@std/assert";
import { c } from "../../ffi/abi.ts";
import { closeAll } from "../../ffi/fd.ts";
import { createEpoll, unwatch, watch } from "../../ffi/epoll.ts";
import { ready, useWaker } from "../../lib/event_loop/reactor.ts";
import { openDescriptors } from "../../ffi/proc.ts";
import { socketPair, writeByte } from "../../ffi/socket.ts";
import { pause } from "../../lib/time.ts";
import { makeWaker } from "../../lib/event_loop/waker.ts";
import { connect, listen, listenAndServe, listenerHandler, type UnixListener } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";
import { installDeno, versions } from "../support/deno_versions.ts";

/** An epoll that watches one end of a pair, as often as it is told. */
class Watched implements Disposable {
  readonly epoll = createEpoll();
  readonly #pair = socketPair();

  /** Reports once that there is something to read. */
  arm(): void {
    watch(this.epoll, {
      tfd: this.#pair[0],
      events: c.EPOLLIN | c.EPOLLONESHOT,
      data: 0n,
    });
  }

  disarm(): void {
    unwatch(this.epoll, this.#pair[0]);
  }

  poke(): void {
    writeByte(this.#pair[1]);
  }

  [Symbol.dispose](): void {
    closeAll([this.epoll, ...this.#pair]);
  }
}

/** Whether `promise` has settled when the event loop has turned some times. */
async function settles(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  promise.then(() => settled = true);
  for (let turn = 0; turn < 10 && !settled; turn++) await pause(1);
  return settled;
}

test("an alarm rings when its epoll has something, once for each time, and not before", async () => {
  using watched = new Watched();
  using waker = (await makeWaker(watched.epoll))!;
  for (let i = 0; i < 20; i++) {
    const ringing = waker.woken();
    assert(!await settles(ringing), "there is nothing");
    watched.arm();
    watched.poke();
    assertEquals(await ringing, true);
    watched.disarm();
    // What is there from before counts when it is watched for anew.
    const again = waker.woken();
    watched.arm();
    assertEquals(await again, true);
    watched.disarm();
    watched.poke();
  }
});

test("an event between two wake-ups is not lost", async () => {
  using watched = new Watched();
  using waker = (await makeWaker(watched.epoll))!;
  watched.poke();
  for (let i = 0; i < 20; i++) {
    watched.arm();
    await pause(1);
    assertEquals(await waker.woken(), true);
    watched.disarm();
  }
});

test("an alarm that is disposed of rings no more, and leaves nothing behind", async () => {
  using watched = new Watched();
  const before = openDescriptors();
  const waker = (await makeWaker(watched.epoll))!;
  const ringing = waker.woken();
  waker[Symbol.dispose]();
  assertEquals(await ringing, false);
  assertEquals(await waker.woken(), false);
  watched.arm();
  watched.poke();
  await pause(1);
  assertEquals(openDescriptors(), before);
});

test("a hundred alarms, one after the other, for one epoll", async () => {
  using watched = new Watched();
  watched.poke();
  for (let i = 0; i < 100; i++) {
    using waker = (await makeWaker(watched.epoll))!;
    watched.arm();
    assertEquals(await waker.woken(), true);
    watched.disarm();
  }
});

/** Lets `count` clients come and go, one after the other. */
async function serve(listener: UnixListener, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const accepting = listener.accept();
    await pause(0);
    using _client = await connect(listener.addr.path!);
    (await accepting).close();
  }
}

test("a listener to which connections come often gets an alarm, and takes it along", async () => {
  const before = openDescriptors();
  for (const end of ["close", "take"] as const) {
    const listener = listen(`\0alarm-${crypto.randomUUID()}`);
    await serve(listener, 100);
    // The alarm's two, and the listener's own.
    assertEquals(openDescriptors().length, before.length + 3);
    using other = listen(`\0alarm-${crypto.randomUUID()}`);
    await serve(other, 100);
    assertEquals(openDescriptors().length, before.length + 4);
    if (end === "close") {
      listener.close();
    } else {
      closeAll([listener.fd.take()]);
      listener[Symbol.dispose]();
    }
    assertEquals(openDescriptors().length, before.length + 3);
    await serve(other, 10);
    other.close();
    assertEquals(openDescriptors(), before);
  }
});

test("the waits of others go on when the alarm goes", async () => {
  const [a, b] = socketPair();
  const listener = listen(`\0alarm-${crypto.randomUUID()}`);
  const reading = ready(a, "readable");
  await serve(listener, 100);
  listener.close();
  assert(!await settles(reading), "there is nothing to read");
  writeByte(b);
  await reading;
  closeAll([a, b]);
});

test("a pending wait keeps the process running when the waker is dropped", async () => {
  for (const when of ["before", "after"]) {
    await using child = new Child("./outlive.ts", [when]);
    const { code, stdout, stderr } = await child.ended();
    assertEquals([code, stdout], [0, ["waiting"]], stderr);
  }
});

test("more events than one look has room for leave others their turn", async () => {
  const listener = listen(`\0alarm-${crypto.randomUUID()}`);
  await serve(listener, 100);
  const pairs = Array.from({ length: 450 }, () => socketPair());
  let stopped = false;
  // Each is ready as soon as somebody waits for it.
  for (const [, b] of pairs) writeByte(b);
  const waiting = pairs.map(async ([a]) => {
    while (!stopped) await ready(a, "readable");
  });
  await pause(50);
  stopped = true;
  await Promise.all(waiting);
  listener.close();
  closeAll(pairs.flat());
});

/** Asks for an alarm that rings at every turn while `rings`, and else with a real one. */
class Ringing implements Disposable {
  disposals = 0;
  readonly #request: Disposable;

  constructor(public rings: boolean) {
    this.#request = useWaker(async (epoll) => {
      const real = (await makeWaker(epoll))!;
      return {
        woken: () => this.rings ? immediately().then(() => true) : real.woken(),
        keepAlive: (alive) => real.keepAlive(alive),
        [Symbol.dispose]: () => {
          this.disposals++;
          real[Symbol.dispose]();
        },
      };
    });
  }

  [Symbol.dispose](): void {
    this.#request[Symbol.dispose]();
  }
}

test("a waker that wakes from the start without events is dropped", async () => {
  using ringing = new Ringing(true);
  await until(() => ringing.disposals === 1);
});

test("an alarm that was good and rings for nothing now is dropped, and the waits go on", async () => {
  using listener = listen(`\0alarm-${crypto.randomUUID()}`);
  using ringing = new Ringing(false);
  await serve(listener, 20);
  ringing.rings = true;
  await until(async () => {
    // The other thread may be waiting still, until there is something.
    await serve(listener, 2);
    const accepting = listener.accept();
    for (let turn = 0; turn < 2000 && ringing.disposals === 0; turn++) await immediately();
    using _client = await connect(listener.addr.path!);
    (await accepting).close();
    return ringing.disposals === 1;
  });
  await serve(listener, 3);
});

test("two processes with an alarm each accept on one listener, and no client is forgotten", async () => {
  using directory = new Directory();
  const control = directory.join("control");
  const path = directory.join("shared");
  const shared = listen(path);
  const server = listenAndServe(control, listenerHandler(shared), { logger: {} });
  await using one = new Child("./answer_shared.ts", [control]);
  await using other = new Child("./answer_shared.ts", [control]);
  await Promise.all([one.line(), other.line()]);
  await server.shutdown();
  shared.keepPath();
  shared.close();
  /** By its pid, whether each had an alarm when it last answered. */
  const wakerUsers = new Map<string, boolean>();
  const visit = async () => {
    using client = await connect(path);
    const answer = new Uint8Array(100);
    const length = await client.read(answer);
    const [pid, waker] = new TextDecoder().decode(answer.subarray(0, length!)).split(" ");
    wakerUsers.set(pid, waker === "true");
  };
  const both = () => wakerUsers.size === 2 && [...wakerUsers.values()].every((each) => each);
  await until(async () => {
    await Promise.all([visit(), visit()]);
    return both();
  });
  for (let i = 0; i < 200; i++) await visit();
  for (let i = 0; i < 50; i++) await Promise.all(Array.from({ length: 20 }, visit));
  assert(both());
});

for (const version of new Set([versions[0], Deno.version.deno])) {
  const runtime = await installDeno(version);
  const ignore = "skipped" in runtime;
  if (ignore) console.log(`Deno ${version} is not tested: ${runtime.skipped}`);
  const made = version === Deno.version.deno;
  test(
    `on Deno ${version} each wait ends ${made ? "with the waker, else silent" : "without one"}`,
    { ignore },
    async () => {
      if ("skipped" in runtime) return;
      const deno = ["run", "-A", "--no-check"];
      await using child = new Child("./hastened.ts", [], { program: runtime.command, deno });
      const { ended, ...rest } = JSON.parse(await child.line());
      assertEquals(rest, { made, idle: 0 });
      // Two waits may end with one.
      assert(made ? ended > 90 && ended <= 110 : ended === 0, `${ended} of 100`);
      assertEquals((await child.ended()).code, 0);
    },
  );
}

test("where connecting is not permitted there is none, and the waits end all the same", async () => {
  for (const net of [[], ["--allow-net=127.0.0.1"], ["--deny-net"]]) {
    const deno = ["run", "--no-prompt", "--allow-ffi", ...net];
    await using child = new Child("./hastened.ts", [], { deno });
    assertEquals(JSON.parse(await child.line()), { made: false, ended: 0, idle: 0 });
    assertEquals((await child.ended()).code, 0);
  }
});
