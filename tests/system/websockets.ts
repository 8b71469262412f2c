/**
 * `deno task websockets`: clients of WebSockets that talk all the time, through one restart after
 * another; then the same with `WebSocket.close()` alone.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import type { Connection } from "./websocket_clients.ts";

const usage = `Usage: deno task websockets [options]

Restarts a service again and again while clients talk to it over WebSockets all the time, and counts
those that get no Close frame, and messages that were answered and whose answer did not arrive. Then
does the same with a service that calls WebSocket.close(), which does lose Close frames. Exits with 0
when nothing failed but in that, with 1 when something did, with 2 for wrong arguments.

  --clients N    clients (200)
  --restarts N   restarts (10)
  --help         print this`;

/** What came of it. */
export interface Outcome {
  /** Connections that were to be closed. */
  connections: number;
  /** Messages that were answered. */
  answers: number;
  /** What is wrong, in words. */
  failures: string[];
}

/** Restarts a service with clients that talk; with `plain`, one that calls `WebSocket.close()`. */
export async function talkThroughRestarts(
  { clients, restarts, plain = false }: { clients: number; restarts: number; plain?: boolean },
): Promise<Outcome> {
  using directory = new Directory();
  await using stack = new AsyncDisposableStack();
  const args = [directory.join("app.sock"), ...plain ? ["plain"] : []];
  const begin = async () => {
    const service = stack.use(new Child("./websocket_service.ts", args));
    const port = (await service.line()).slice("port: ".length);
    return { service, port };
  };
  const answered = new Map<string, number>();
  const failures: string[] = [];
  const end = async (service: Child) => {
    const { code, stdout, stderr } = await service.ended();
    if (code !== 0 || stderr) failures.push(`a generation ended with ${code}: ${stderr}`);
    for (const line of stdout) {
      const [, id, count] = /^answered: (\S+) (\d+)$/.exec(line) ?? [];
      if (id) answered.set(id, Number(count));
    }
  };

  let { service, port } = await begin();
  const talking = stack.use(new Child("../system/websocket_clients.ts", [port, String(clients)]));
  let line = await talking.line();
  for (let done = 0; done < restarts && line.startsWith("generation: "); done++) {
    const next = (await begin()).service;
    await end(service);
    service = next;
    // Without the clients that have failed there is nothing to wait for.
    if (!plain) line = await talking.line();
  }
  await talking.tell("stop").catch(() => {});
  while (!line.startsWith("[")) line = await talking.line();
  await service.tell("stop");
  await end(service);

  const all: Connection[] = JSON.parse(line);
  const closed = all.filter((connection) => connection.end !== "stopped");
  for (const { id, end, answers } of closed) {
    if (end !== 1012) failures.push(`${id}: ${end}`);
    const lost = (answered.get(id) ?? NaN) - answers;
    if (lost !== 0) failures.push(`${id}: ${lost} of ${answered.get(id)} answers are lost`);
  }
  const expected = plain ? closed.length : clients * restarts;
  if (closed.length !== expected) failures.push(`${closed.length} of ${expected} were closed`);
  const answers = all.reduce((sum, { answers }) => sum + answers, 0);
  return { connections: closed.length, answers, failures };
}

/** The command's options. @throws {TypeError} For wrong ones. */
function options() {
  const { values } = parseArgs({
    options: {
      clients: { type: "string", default: "200" },
      restarts: { type: "string", default: "10" },
      help: { type: "boolean", default: false },
    },
  });
  for (const name of ["clients", "restarts"] as const) {
    if (!/^[1-9]\d*$/.test(values[name])) {
      throw new TypeError(`--${name} is a whole number from 1 on, not "${values[name]}"`);
    }
  }
  return { ...values, clients: Number(values.clients), restarts: Number(values.restarts) };
}

async function main(): Promise<number> {
  let flags: ReturnType<typeof options>;
  try {
    flags = options();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    console.error(`${error.message}\n\n${usage}`);
    return 2;
  }
  if (flags.help) {
    console.log(usage);
    return 0;
  }
  let failed = 0;
  for (const plain of [false, true]) {
    const { connections, answers, failures } = await talkThroughRestarts({ ...flags, plain });
    console.log(
      `${
        plain ? "WebSocket.close()" : "app.upgradeWebSocket()"
      }: ${connections} connections were ` +
        `closed, ${answers} messages were answered, ${failures.length} failures`,
    );
    for (const failure of failures.slice(0, 20)) console.log(`  ${failure}`);
    if (plain ? failures.length === 0 : failures.length > 0) failed++;
  }
  return failed > 0 ? 1 : 0;
}

if (import.meta.main) Deno.exit(await main());
