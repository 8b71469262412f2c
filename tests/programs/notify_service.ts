/**
 * A service in a systemd unit: it writes the PID file of the unit, and is ready when systemd knows it.
 *
 * @module
 */

import { start } from "../../mod.ts";

const app = await start(Deno.args[0], { probation: 100 });
app.serve({ hostname: "127.0.0.1", port: Number(Deno.args[1]), onListen() {} }, () => {
  return new Response(`${app.generation} ${Deno.pid}`);
});
await app.ready();
const file = Deno.env.get("PIDFILE");
if (file) Deno.writeTextFileSync(file, `${Deno.pid}\n`);
if (Deno.env.has("NOTIFY_SOCKET")) {
  await new Deno.Command("systemd-notify", { args: ["--ready"] }).output();
}
await app.finished;
