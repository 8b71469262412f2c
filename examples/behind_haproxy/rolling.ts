/**
 * Stops, starts and restarts two instances of the service in main.ts behind HAProxy, one after the other and under
 * load, and counts the failed requests: first without `stopDelay`, where some have to fail, then with it.
 *
 *     deno run -A examples/behind_haproxy/rolling.ts
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { Pool } from "undici";
import { fail, parseFlags } from "../flags.ts";

const usage = `Stops, starts and restarts two instances behind HAProxy, under load.

Usage: deno run -A examples/behind_haproxy/rolling.ts [options]

  --stop-delay MS  the stopDelay of the instances (2000)
  --connections N  N keep-alive connections, each with one request after the other (16)
  --pause MS       the longest pause of a client between two requests (10)
  --config FILE    the configuration of HAProxy (haproxy.cfg, beside this file)
  --help           print this

Exits with 0 if no request failed with a stopDelay, with 1 if one did, with 2 for a wrong argument.`;

const { "stop-delay": stopDelay, connections, pause: longestPause, config } = parseFlags(usage, {
  "stop-delay": 2000,
  connections: 16,
  pause: 10,
  config: here("haproxy.cfg"),
});
if (connections < 1) fail(usage, "--connections must be at least 1");

/** The status of a server, as HAProxy has it. */
interface Server {
  status: string;
  /** How often checks have marked it down. */
  chkdown: string;
}

const directory = await Deno.makeTempDir({ prefix: "graceful-" });
const running = new Set<Deno.ChildProcess>();
const port = freePort();
const statsPath = `${directory}/haproxy.stats`;

/** One of the two servers: the process that accepts, and its successors. */
class Instance {
  readonly #port = freePort();
  #process!: Deno.ChildProcess;

  constructor(readonly name: string) {}

  get env(): Record<string, string> {
    return { [`PORT_${this.name.toUpperCase()}`]: String(this.#port) };
  }

  /** Starts another process, which takes over from the running one; resolves when the new process accepts. */
  async start(stopDelay: number): Promise<void> {
    this.#process = spawn(Deno.execPath(), ["run", "-A", here("main.ts")], {
      CONTROL: `${directory}/${this.name}.control`,
      PORT: String(this.#port),
      STOP_DELAY: String(stopDelay),
    });
    const { value } = await this.#process.stdout.getReader().read();
    if (!value) throw new Error(`Instance ${this.name} has ended instead of serving`);
  }

  /** Waits until HAProxy sends requests to it. */
  async isUp(): Promise<void> {
    await until(async () => (await servers())[this.name]?.status === "UP");
  }

  /** Sends SIGTERM, and waits until the process has ended and HAProxy sends it nothing. */
  async stop(): Promise<void> {
    this.#process.kill("SIGTERM");
    await ended(this.#process);
    await until(async () => (await servers())[this.name].status === "DOWN");
  }

  /** Has another process take over, and waits until this one has drained. */
  async restart(): Promise<void> {
    const old = this.#process;
    await this.start(stopDelay);
    await ended(old);
  }
}

/** Keep-alive clients of HAProxy that pause between two requests, never repeat one, and count every failure. */
class Load {
  readonly failures = new Map<string, number>();
  answered = 0;
  #isOver = false;
  readonly #pool = new Pool(`http://127.0.0.1:${port}`, { connections, pipelining: 1 });
  readonly #clients = Array.from({ length: connections }, async () => {
    while (!this.#isOver) {
      await pause(longestPause * Math.random());
      try {
        const { statusCode, body } = await this.#pool.request({ path: "/", method: "GET" });
        await body.text();
        if (statusCode === 200) this.answered++;
        else this.#fail(`status ${statusCode}`);
      } catch (error) {
        this.#fail(String(error));
      }
    }
  });

  #fail(reason: string): void {
    this.failures.set(reason, 1 + (this.failures.get(reason) ?? 0));
  }

  /** Waits until 500 more requests are answered. */
  async goesOn(): Promise<void> {
    const before = this.answered;
    await until(() => this.answered >= before + 500);
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#clients);
    await this.#pool.close();
  }
}

const instances = [new Instance("one"), new Instance("two")];
let lost = 0;

try {
  const env = Object.assign(
    { PORT: String(port), STATS: statsPath },
    ...instances.map((i) => i.env),
  );
  const haproxy = spawn("haproxy", ["-db", "-q", "-f", config], env);
  await until(() => servers().then(() => true, (error) => unlessEnded(haproxy, error)));

  for (const instance of instances) await instance.start(0);
  for (const instance of instances) await instance.isUp();
  await underLoad("stopped and started again, without stopDelay", async (instance) => {
    await instance.stop();
    await instance.start(stopDelay);
    await instance.isUp();
  });
  lost += await underLoad("stopped and started again, with stopDelay", async (instance) => {
    await instance.stop();
    await instance.start(stopDelay);
    await instance.isUp();
  });
  const before = await downs();
  lost += await underLoad("restarted, the next process takes over", async (instance) => {
    await instance.restart();
  });
  console.log(`HAProxy has marked a server down ${await downs() - before} times in the restarts`);
  await Promise.all(instances.map((instance) => instance.stop()));
} finally {
  for (const process of running) process.kill("SIGKILL");
  await Deno.remove(directory, { recursive: true });
}
if (lost > 0) Deno.exit(1);

/** Does something to each instance in turn while clients use both; returns how many requests failed. */
async function underLoad(
  what: string,
  change: (instance: Instance) => Promise<void>,
): Promise<number> {
  const load = new Load();
  for (const instance of instances) {
    await load.goesOn();
    await change(instance);
  }
  await load.goesOn();
  await load.stop();
  const reasons = [...load.failures].map(([reason, count]) => `${count} x ${reason}`).join(", ");
  const failed = [...load.failures.values()].reduce((sum, count) => sum + count, 0);
  console.log(
    `${what}: ${load.answered + failed} requests, ${failed} failed${reasons && `: ${reasons}`}`,
  );
  return failed;
}

/** The servers as HAProxy's stats socket has them (management.txt of HAProxy, "show stat"). */
async function servers(): Promise<Record<string, Server>> {
  using conn = await Deno.connect({ transport: "unix", path: statsPath });
  await conn.write(new TextEncoder().encode("show stat\n"));
  const [head, ...lines] = (await new Response(conn.readable).text()).trim().split("\n");
  const names = head.replace("# ", "").split(",");
  const rows = lines.map((line) => {
    const values = line.split(",");
    return Object.fromEntries(names.map((name, i) => [name, values[i]]));
  });
  const own = rows.filter(({ pxname, type }) => pxname === "service" && type === "2");
  return Object.fromEntries(own.map((row) => [row.svname, row as unknown as Server]));
}

/** How often checks have marked a server down. */
async function downs(): Promise<number> {
  return Object.values(await servers()).reduce((sum, { chkdown }) => sum + Number(chkdown), 0);
}

function spawn(command: string, args: string[], env: Record<string, string>): Deno.ChildProcess {
  try {
    const process = new Deno.Command(command, { args, env, stdout: "piped" }).spawn();
    running.add(process);
    void process.status.then(() => running.delete(process));
    return process;
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw new Error(`Cannot start ${command}: install it, on Debian by apt-get`, { cause });
  }
}

/** Waits for the end of a process, which has to be without an error. */
async function ended(process: Deno.ChildProcess): Promise<void> {
  const { code } = await process.status;
  if (code !== 0) throw new Error(`Process ${process.pid} ended with exit code ${code}`);
}

/** False for a process that runs. @throws {Error} When it has ended. */
function unlessEnded(process: Deno.ChildProcess, cause: unknown): false {
  if (running.has(process)) return false;
  throw new Error(`${config}: HAProxy has ended`, { cause });
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 6000; tries++) {
    if (await condition()) return;
    await pause(10);
  }
  throw new Error(`Never came true: ${condition}`);
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** A free port, outside of the range from which the kernel takes those of clients (ip(7), `ip_local_port_range`). */
function freePort(): number {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * 15_000);
    try {
      Deno.listen({ hostname: "127.0.0.1", port }).close();
      return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}

function here(file: string): string {
  return fileURLToPath(new URL(file, import.meta.url));
}
