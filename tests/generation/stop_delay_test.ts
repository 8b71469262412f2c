/**
 * `stopDelay` and `health()`: a generation that was asked to stop goes on accepting until a load balancer has noticed.
 *
 * Where the delay is ten minutes, the test ends it before.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Child, programPath } from "../support/child.ts";
import { cli } from "../support/cli.ts";
import { Directory } from "../support/directory.ts";
import { Generations } from "../support/generations.ts";
import { begin, quietly, saying } from "../support/in_process.ts";
import { test } from "../support/guard.ts";
import { until } from "../support/until.ts";

const tenMinutes = ["--stopDelay", "600000"];

/** A service that answers its generation and PID, and at /health what `health()` gives. */
class Service extends Generations {
  port = 0;

  /** Starts a generation, and waits until it serves. */
  static async start(directory: Directory, ...args: string[]): Promise<Service> {
    return await Service.serving(
      new Service("./generation.ts", [directory.join("app.sock"), ...args]),
    );
  }

  /** Waits until a generation serves. */
  static async serving(service: Service): Promise<Service> {
    service.port = await service.number("port");
    await service.until(/^serving: /);
    return service;
  }

  /** Asks over a connection of its own, which fails if that is refused or reset. */
  async ask(path = "/"): Promise<{ status: number; headers: Headers; text: string }> {
    const client = Deno.createHttpClient({ poolMaxIdlePerHost: 0 });
    try {
      const response = await fetch(`http://127.0.0.1:${this.port}${path}`, { client });
      return { status: response.status, headers: response.headers, text: await response.text() };
    } finally {
      client.close();
    }
  }

  async health(): Promise<string> {
    const { status, text } = await this.ask("/health");
    return `${status} ${text.trim()}`;
  }

  /** Sends SIGTERM; resolves when the generation has noted that. */
  async terminate(): Promise<void> {
    Deno.kill(this.pid, "SIGTERM");
    await this.until("asked: Stopping on SIGTERM");
  }
}

/** Asks again and again, each time over a new connection, and never repeats a request. */
class Clients {
  readonly failures: string[] = [];
  answered = 0;
  #isOver = false;
  readonly #running: Promise<void>[];

  constructor(service: Service, clients = 4) {
    this.#running = Array.from({ length: clients }, async () => {
      while (!this.#isOver) {
        try {
          await service.ask();
          this.answered++;
        } catch (error) {
          this.failures.push(String(error));
        }
      }
    });
  }

  async answers(count: number): Promise<void> {
    const before = this.answered;
    await until(() => this.answered >= before + count || this.failures.length > 0);
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#running);
  }
}

test("after SIGTERM a generation fails its health check at once, accepts for stopDelay, and drains then", async () => {
  using directory = new Directory();
  const stopDelay = 3000;
  await using service = await Service.start(directory, "--stopDelay", String(stopDelay));
  assertEquals(await service.health(), "200 serving");
  assertEquals((await service.ask()).headers.get("connection"), null);
  const began = performance.now();
  await service.terminate();
  const health = await service.ask("/health");
  assertEquals([health.status, health.text], [503, "stopping\n"]);
  assertEquals(health.headers.get("cache-control"), "no-store");
  const answer = await service.ask();
  assertEquals([answer.status, answer.text], [200, `1 ${service.pid}`]);
  // Clients that keep their connections alive choose another process by this.
  assertEquals(answer.headers.get("connection"), "close");
  const { code, stdout } = await service.ended();
  assertEquals(code, 0);
  assert(performance.now() - began >= stopDelay);
  assert(stdout.includes("phase: stopped") && stdout.includes("finished"), stdout.join("\n"));
  await assertRejects(() => service.ask());
  assertEquals(directory.names(), []);
});

test("a control: without stopDelay, a client that connects after SIGTERM is refused", async () => {
  using directory = new Directory();
  await using service = await Service.start(directory);
  await service.ask();
  await service.terminate();
  await assertRejects(() => service.ask());
  assertEquals((await service.ended()).code, 0);
});

test("the second SIGTERM ends a process in its stopDelay at once", async () => {
  using directory = new Directory();
  await using service = await Service.start(directory, ...tenMinutes);
  await service.terminate();
  assertEquals((await service.ask()).status, 200);
  Deno.kill(service.pid, "SIGTERM");
  assertEquals((await service.ended()).code, 128 + 15);
});

test("stop of the command line has the delay, which a signal meanwhile does not change", async () => {
  using directory = new Directory();
  await using service = await Service.start(directory, "--stopDelay", "4000");
  const stopping = cli("stop", directory.join("app.sock"));
  await until(async () => await service.health() === "503 stopping");
  await service.terminate();
  assertEquals(await service.health(), "503 stopping");
  assertEquals((await service.ask()).status, 200);
  const { code, stdout } = await stopping;
  assertEquals(code, 0);
  assertMatch(stdout, /^generation 1 has stopped, and its process \d+ has ended$/);
  assertEquals((await service.ended()).code, 0);
});

test("the program's stop() has no delay, and ends a running delay", async () => {
  using directory = new Directory();
  for (const before of ["nothing", "SIGTERM"]) {
    await using service = await Service.start(directory, ...tenMinutes);
    if (before === "SIGTERM") {
      await service.terminate();
      assertEquals(await service.health(), "503 stopping");
    }
    await service.tell("stop");
    assertEquals((await service.ended()).code, 0, before);
  }
});

test("a generation in its stopDelay refuses to restart, and goes on accepting", async () => {
  using directory = new Directory();
  await using service = await Service.start(directory, ...tenMinutes, "--restartOn", "SIGHUP");
  await service.terminate();
  await service.tell("restart");
  const why = "Cannot restart: this generation is being stopped";
  await service.until(new RegExp(`^failed: ERR_HANDOVER_BUSY ${why}, `));
  Deno.kill(service.pid, "SIGHUP");
  await service.until(/^warning: Not restarting on SIGHUP: this generation is being stopped/);
  const { code, stderr } = await cli("restart", directory.join("app.sock"));
  assertEquals(code, 1);
  assertMatch(stderr, new RegExp(`^The restart failed: ${why}, `));
  assertEquals(await service.health(), "503 stopping");
  await service.tell("stop");
  assertEquals((await service.ended()).code, 0);
});

test("SIGTERM gives up a restart that is under way, whose process takes nothing over in the delay", async () => {
  using directory = new Directory();
  const hold = ["--hold", directory.join("hold")];
  await using service = await Service.start(directory, ...tenMinutes, ...hold);
  Deno.writeTextFileSync(directory.join("hold"), "");
  await service.tell("restart");
  await service.until("held");
  await service.terminate();
  await service.until(/^failed: ERR_HANDOVER_FAILED This generation was stopped meanwhile/);
  assertEquals((await service.ask()).text, `1 ${service.pid}`);
  await service.tell("stop");
  assertEquals((await service.ended()).code, 0);
});

test("a process that starts in the delay takes over without a loss, and the old one drains at once", async () => {
  using directory = new Directory();
  // The old one does not stand by until that is over: it was asked to end.
  const probation = ["--probation", "60000"];
  await using old = await Service.start(directory, ...tenMinutes);
  const clients = new Clients(old);
  await clients.answers(50);
  await old.terminate();
  await clients.answers(50);
  await using next = await Service.start(directory, ...tenMinutes, ...probation);
  const { code, stdout } = await old.ended();
  assertEquals(code, 0);
  assert(stdout.includes("phase: withdrawn") && stdout.includes("finished"), stdout.join("\n"));
  await clients.answers(50);
  await clients.stop();
  assertEquals(clients.failures, []);
  assertEquals([next.port, await next.health()], [old.port, "200 probation"]);
  assertEquals((await next.ask()).text, `2 ${next.pid}`);
  await next.tell("stop");
  assertEquals((await next.ended()).code, 0);
});

test("a handover that fails in the delay changes nothing", async () => {
  using directory = new Directory();
  await using old = await Service.start(directory, ...tenMinutes);
  await old.terminate();
  const path = directory.join("app.sock");
  await using failing = new Child("./generation.ts", [path, "--fail", "a broken release"]);
  await old.until("phase: rollback");
  await failing.ended();
  const { text, headers } = await old.ask();
  assertEquals([text, headers.get("connection")], [`1 ${old.pid}`, "close"]);
  assertEquals(await old.health(), "503 stopping");
  await old.tell("stop");
  assertEquals((await old.ended()).code, 0);
});

test("a generation that is stopped in its probation has its predecessor drain, and accepts for stopDelay", async () => {
  using directory = new Directory();
  await using old = await Service.start(directory);
  await using next = await Service.start(directory, ...tenMinutes, "--probation", "300000");
  assertEquals(await next.health(), "200 probation");
  await next.terminate();
  assertEquals((await old.ended()).code, 0);
  assertEquals(await next.health(), "503 stopping");
  assertEquals((await next.ask()).text, `2 ${next.pid}`);
  Deno.kill(next.pid, "SIGTERM");
  assertEquals((await next.ended()).code, 128 + 15);
  await assertRejects(() => next.ask());
});

test("a generation that is not ready, or stands by, is stopped without a delay", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  await using unready = new Child("./generation.ts", [path, ...tenMinutes, "--say", "wait"]);
  await unready.until(/^port: /);
  Deno.kill(unready.pid, "SIGTERM");
  assertEquals((await unready.ended()).code, 0);
  await using old = await Service.start(directory, ...tenMinutes);
  await using next = await Service.start(directory, "--probation", "300000");
  await old.terminate();
  assertEquals((await old.ended()).code, 0);
  assertEquals((await next.ask()).text, `2 ${next.pid}`);
  await next.terminate();
  assertEquals((await next.ended()).code, 0);
});

test("a generation on a system that passes no descriptors has a stopDelay, too", async () => {
  using directory = new Directory();
  await using service = new Service(
    "./generation.ts",
    [directory.join("app.sock"), ...tenMinutes],
    {
      deno: ["run", "-A", "--preload", programPath("fake_system.ts")],
      env: { OTHER_SYSTEM: "darwin aarch64" },
    },
  );
  await Service.serving(service);
  assertEquals(await service.health(), "200 serving");
  await service.terminate();
  assertEquals(await service.health(), "503 stopping");
  const { text, headers } = await service.ask();
  assertEquals([text, headers.get("connection")], [`1 ${service.pid}`, "close"]);
  await service.tell("stop");
  assertEquals((await service.ended()).code, 0);
});

test("health() is 200 while this or another generation accepts and is to go on, and 503 otherwise", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const health = async (app: { health(): Response }) => {
    const answer = app.health();
    assertEquals([answer.ok, answer.headers.get("cache-control")], [
      answer.status === 200,
      "no-store",
    ]);
    return `${answer.status} ${await answer.text()}`;
  };
  const old = await begin(path);
  assertEquals(await health(old), "503 starting\n");
  old.serve(quietly, saying("old"));
  await old.ready();
  assertEquals(await health(old), "200 serving\n");
  const next = await begin(path, { probation: 60_000 });
  next.serve(quietly, saying("next"));
  assertEquals([await health(old), await health(next)], ["200 offering\n", "503 starting\n"]);
  await next.ready();
  assertEquals([await health(old), await health(next)], ["200 standby\n", "200 probation\n"]);
  const stopped = next.stop();
  assertEquals(await health(next), "503 stopping\n");
  await stopped;
  await old.finished;
  assertEquals([await health(old), await health(next)], ["503 stopped\n", "503 stopped\n"]);
});
