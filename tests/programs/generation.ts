/**
 * A service that answers with its generation and PID, prints each step on a line, and obeys the lines that it
 * reads: ready, status, restart, stop.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { pathStatus } from "../../ffi/file.ts";
import { pause } from "../../lib/time.ts";
import { type Logger, start } from "../../mod.ts";
import { told } from "../support/child.ts";

const { values: flags, positionals: [path] } = parseArgs({
  allowPositionals: true,
  options: {
    probation: { type: "string", default: "100" },
    readyTimeout: { type: "string", default: "20000" },
    peerTimeout: { type: "string", default: "10000" },
    drainTimeout: { type: "string", default: "20000" },
    stopDelay: { type: "string", default: "0" },
    restartOn: { type: "string", multiple: true, default: [] },
    restartAsMain: { type: "boolean" },
    fail: { type: "string" },
    say: { type: "string" },
    hold: { type: "string" },
  },
});

const logger: Logger = {
  debug: tell,
  info: tell,
  warn: (message) => console.log(`warning: ${message}`),
  error: (message, error) => {
    console.log(`error: ${message}: ${(error as Error)?.message.replaceAll("\n", " ")}`);
  },
};

/** Prints the phases of a handover, and the signals that have arrived. */
function tell(message: string, details?: unknown): void {
  if (/^(Restarting|Stopping) on /.test(message)) console.log(`asked: ${message}`);
  const { phase } = (details ?? {}) as { phase?: string };
  if (phase) console.log(`phase: ${phase}`);
}

// A process of restart() waits until the file of --hold is gone, before it calls start().
if (flags.hold && Deno.env.has("GRACEFUL_TOKEN")) {
  console.log("held");
  while (pathStatus(flags.hold)) await pause(10);
}
const app = await start(path, {
  logger,
  probation: Number(flags.probation),
  readyTimeout: Number(flags.readyTimeout),
  peerTimeout: Number(flags.peerTimeout),
  drainTimeout: Number(flags.drainTimeout),
  stopDelay: Number(flags.stopDelay),
  restartOn: flags.restartOn as Deno.Signal[],
  restartAsMain: flags.restartAsMain,
});
if (flags.say) console.error(flags.say);
if (flags.fail && app.generation > 1) throw new Error(flags.fail);
const server = app.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, ({ url }) => {
  return url.endsWith("/health") ? app.health() : new Response(`${app.generation} ${Deno.pid}`);
});
if (flags.hold) console.log(`pid: ${Deno.pid}`);
console.log(`port: ${(server.addr as Deno.NetAddr).port}`);
commands();
if (!flags.say?.startsWith("wait")) await ready();
app.finished.then(
  () => console.log("finished"),
  (error) => console.log(`rejected: ${error.code} ${error.message}`),
).then(() => Deno.exit());

async function ready(): Promise<void> {
  try {
    await app.ready();
    console.log(`serving: ${app.generation}`);
  } catch (error) {
    console.log(`not ready: ${(error as { code: string }).code}`);
  }
}

async function commands(): Promise<void> {
  for await (const line of told()) {
    if (line === "ready") await ready();
    if (line === "status") console.log(`status: ${JSON.stringify(app.status())}`);
    if (line === "stop") void app.stop();
    if (line === "restart") {
      app.restart().then(
        ({ generation }) => console.log(`restarted: ${generation}`),
        (error) => console.log(`failed: ${error.code} ${error.message.replaceAll("\n", " ")}`),
      );
    }
  }
}
