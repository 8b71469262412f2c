/**
 * A service in a systemd unit. With a third argument it also listens at that path; with a fourth one its process does
 * not end.
 *
 * @module
 */

import { start } from "../../mod.ts";

const [control, port, web, stay] = Deno.args;
const app = await start(control, { probation: 100, exitTimeout: stay ? false : 10_000 });
const answer = () => new Response(`${app.generation} ${Deno.pid}`);
app.serve({ hostname: "127.0.0.1", port: Number(port), onListen() {} }, answer);
if (web) app.serve({ path: web, onListen() {} }, answer);
await app.ready();
if (stay) setInterval(() => {}, 1e9);
await app.finished;
