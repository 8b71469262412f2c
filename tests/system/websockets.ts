/**
 * `deno task websockets`: WebSocket clients that send all the time, while the service is restarted again and
 * again; then the same with `WebSocket.close()` alone.
 *
 * @module
 */

import { Child } from "../support/child.ts";
import { Progress, runTool, wholeNumber } from "../support/command_line.ts";
import { Directory } from "../support/directory.ts";
import type { Connection } from "./websocket_clients.ts";

const usage = `Usage: deno task websockets [options]

Restarts a service again and again while WebSocket clients send to it all the time, and counts the
connections that got no Close frame, and the answers that did not arrive. Then does the same with a
service that calls WebSocket.close(), which does lose Close frames: a control that the clients notice.
Exits with 0 when nothing failed but in the control, with 1 when something did or the control lost
nothing, with 2 for wrong arguments.

  --clients N    N clients (200)
  --restarts N   N restarts (10)
  --seed S       of the pauses and bursts of the clients, a whole number (1)
  --help         print this

A seed repeats what the clients do, not the order in which the processes run.`;

/** The results. */
export interface Outcome {
  /** Connections that the service closed. */
  connections: number;
  /** Messages that were answered. */
  answers: number;
  /** Connections without a Close frame, lost answers and failed generations, in words. */
  failures: string[];
}

/** Restarts a service while clients send; with `plain`, a service that calls `WebSocket.close()`. */
export async function talkThroughRestarts(
  { clients, restarts, plain = false, seed = 1, restarted }: {
    clients: number;
    restarts: number;
    plain?: boolean;
    seed?: number;
    /** Is called after each restart. */
    restarted?: () => void;
  },
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
  const running = stack.use(
    new Child("../system/websocket_clients.ts", [port, String(clients), String(seed)]),
  );
  let line = await running.line();
  for (let done = 0; done < restarts && line.startsWith("generation: "); done++) {
    const next = (await begin()).service;
    await end(service);
    service = next;
    restarted?.();
    // In the control clients fail: they would not print that all are connected again.
    if (!plain) line = await running.line();
  }
  // The process of the clients may have ended, with a failure that it has printed.
  await running.tell("stop").catch(() => {});
  while (!line.startsWith("[")) line = await running.line();
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

if (import.meta.main) {
  await runTool(usage, {
    options: {
      clients: { type: "string", default: "200" },
      restarts: { type: "string", default: "10" },
      seed: { type: "string", default: "1" },
    },
  }, async ({ values }) => {
    const clients = wholeNumber("clients", values.clients, { least: 1 });
    const restarts = wholeNumber("restarts", values.restarts, { least: 1 });
    const seed = wholeNumber("seed", values.seed);
    let isFine = true;
    for (const plain of [false, true]) {
      const call = plain ? "WebSocket.close()" : "app.upgradeWebSocket()";
      const outcome = await talkWithProgress(call, { clients, restarts, plain, seed });
      const { connections, answers, failures } = outcome;
      console.log(
        `${call}: ${connections} connections were closed, ${answers} messages were answered, ` +
          `${failures.length} failures`,
      );
      for (const failure of failures.slice(0, 20)) console.log(`  ${failure}`);
      // If the control loses nothing, the clients do not notice what is lost.
      isFine &&= plain ? failures.length > 0 : failures.length === 0;
    }
    console.log(`The seed of the clients was ${seed}`);
    return isFine;
  });
}

async function talkWithProgress(
  call: string,
  options: Parameters<typeof talkThroughRestarts>[0],
): Promise<Outcome> {
  let done = 0;
  using _progress = new Progress(() => `${call}: ${done} of ${options.restarts} restarts`);
  return await talkThroughRestarts({ ...options, restarted: () => done++ });
}
