/**
 * A web service on a unix path, behind nginx. During a restart the path always leads to the listener: the
 * next generation accepts on the same socket.
 *
 *     deno run -A examples/behind_nginx/main.ts &
 *     nginx -p /tmp -c $PWD/examples/behind_nginx/nginx.conf &
 *     deno run -A examples/behind_nginx/main.ts    the next generation: it takes over from the first
 *
 * CONTROL is the control socket (/tmp/app.control), SOCKET the path to serve on (/tmp/app.sock).
 *
 * @module
 */

import { start } from "../../mod.ts";

if (Deno.args.length > 0) {
  console.log(
    "CONTROL is the control socket (/tmp/app.control), SOCKET the path to serve on (/tmp/app.sock).",
  );
  Deno.exit(Deno.args[0] === "--help" ? 0 : 2);
}

const app = await start(Deno.env.get("CONTROL") ?? "/tmp/app.control");
// nginx runs as another user. With this mode every user that may enter the directory can connect.
const path = Deno.env.get("SOCKET") ?? "/tmp/app.sock";
app.serve({ path, mode: 0o666 }, () => new Response(`Hello, I am process ${Deno.pid}\n`));
await app.ready();
console.log(`generation ${app.generation} at ${path}`);
