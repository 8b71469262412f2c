/**
 * A service for `cli.ts hold`: answers with the PID that it has in its namespace; `/slow?ms=N` takes so long.
 *
 *     held.ts PATH PORT [--name NAME] [--fail CODE] [--wait MS]
 *
 * --fail: ends with that code before it is ready. --wait: before it is ready, so many milliseconds pass. With ORPHANS set,
 * it leaves an orphan behind, which ends at once.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { pause } from "../../lib/time.ts";
import { start } from "../../mod.ts";

const { values: flags, positionals: [path, port] } = parseArgs({
  allowPositionals: true,
  options: {
    name: { type: "string" },
    fail: { type: "string" },
    wait: { type: "string", default: "0" },
    probation: { type: "string", default: "100" },
  },
});

const app = await start(path, { probation: Number(flags.probation) });
app.serve({ hostname: "127.0.0.1", port: Number(port), name: flags.name, onListen() {} }, answer);
await pause(Number(flags.wait));
if (flags.fail) Deno.exit(Number(flags.fail));
if (Deno.env.has("ORPHANS")) {
  await new Deno.Command("sh", { args: ["-c", "true & exit 0"], stdin: "null" }).output();
}
await app.ready();
await app.finished;

async function answer(request: Request): Promise<Response> {
  const { pathname, searchParams } = new URL(request.url);
  if (pathname === "/slow") await pause(Number(searchParams.get("ms")));
  return new Response(String(Deno.pid));
}
