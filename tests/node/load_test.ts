/**
 * Servers of node in processes of their own, restarted again and again under load, and stopped by SIGTERM.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { hasEnded, identify } from "../../ffi/proc.ts";
import { cli } from "../support/cli.ts";
import { installDeno } from "../support/deno_versions.ts";
import { Directory } from "../support/directory.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";
import { Http2Load } from "../support/http2_load.ts";
import { soon, until } from "../support/until.ts";
import { Clients, type Kind, type NodePorts, Tally, use } from "./load_clients.ts";

/** A program with all servers of node. */
class NodeService implements AsyncDisposable {
  readonly #directory = new Directory();
  readonly #processes: Generations;
  #pid = 0;
  ports!: NodePorts;

  private constructor(args: string[], program?: string[]) {
    const all = [this.#directory.join(""), ...args];
    this.#processes = new Generations("./node_service.ts", all, { program });
  }

  /** Starts it, and waits until it serves. */
  static async start(args: string[] = [], program?: string[]): Promise<NodeService> {
    const service = new NodeService(args, program);
    await service.#serves();
    return service;
  }

  async #serves(): Promise<void> {
    const { pid, ports } = JSON.parse(await this.#processes.line());
    this.#pid = pid;
    this.ports = ports;
  }

  /** Replaces the process; resolves when it has ended. */
  async restart(): Promise<void> {
    const old = identify(this.#pid);
    const { code, stderr } = await cli("restart", this.#directory.join("app.sock"));
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
    await this.#serves();
    await soon(() => hasEnded(old));
  }

  /** Sends SIGTERM, and waits for the end of the process. */
  async stop(): Promise<void> {
    const old = identify(this.#pid);
    Deno.kill(this.#pid, "SIGTERM");
    await soon(() => hasEnded(old));
    assertEquals((await this.#processes.ended()).stderr, "");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#processes[Symbol.asyncDispose]();
    this.#directory[Symbol.dispose]();
  }
}

/** Restarts a service under clients. */
async function restarted(service: NodeService, restarts: number, kinds: Kind[]): Promise<Tally> {
  const clients = new Clients(service.ports, kinds);
  for (let i = 0; i < restarts; i++) await service.restart();
  return await clients.stop();
}

const others = ["2.8.3"];

for (const version of [Deno.version.deno, ...others]) {
  const runtime = await installDeno(version);
  const ignore = "skipped" in runtime;
  if (ignore) console.log(`Deno ${version} is not tested: ${runtime.skipped}`);
  const restarts = version === Deno.version.deno ? 5 : 2;
  test(`${restarts} restarts on Deno ${version} lose no request of any client`, {
    ignore,
  }, async () => {
    if ("skipped" in runtime) return;
    await using service = await NodeService.start([], runtime.command);
    const { answered, failures } = await restarted(service, restarts, [
      "pipelined",
      "upload",
      "echo",
      "fetched",
    ]);
    assertEquals(failures, new Map());
    assert(answered > 1000, `${answered} answers`);
    await service.stop();
  });
}

test("a control: node's server.close() alone loses requests", async () => {
  await using service = await NodeService.start(["close"]);
  // Without "fetched": a plain server of node:http2 may end then (Deno 2.9.6).
  const { failures } = await restarted(service, 3, ["pipelined", "upload"]);
  // It also removes the path of a unix socket, and refuses streams of HTTP/2, which a client may repeat.
  const lost = [...failures.keys()].filter((what) => !/unix path|REFUSED_STREAM/.test(what));
  assert(lost.length > 0);
});

test("SIGTERM under load: all requests on open connections are answered", async () => {
  await using service = await NodeService.start();
  const tally = new Tally();
  const each = Array.from({ length: 4 }, () => ["pipelined", "upload"] as const).flat();
  const stopped = new AbortController();
  const running = use(each, service.ports, tally, stopped.signal, true);
  const sessions = Array.from(
    { length: 4 },
    () => new Http2Load(`https://127.0.0.1:${service.ports.http2}`, "/slow?ms=2", true),
  );
  await until(() => tally.answered > 100 && sessions.every(({ count }) => count > 10));
  await service.stop();
  stopped.abort();
  await running;
  for (const session of sessions) await session.stop();
  assertEquals(tally.failures, new Map());
  assertEquals(sessions.flatMap(({ failures }) => failures), []);
});
