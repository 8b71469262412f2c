/**
 * A service with default loggers that prints nothing itself, and whose HTTP handlers throw; at `worse.sock`
 * `onError` throws as well. The next generation fails while a file `fail` is beside the control socket.
 *
 * @module
 */

import { listenAndServe, start } from "../../mod.ts";
import { quietly } from "../support/in_process.ts";

const [directory] = Deno.args;
const app = await start(`${directory}/app.sock`, { probation: 50, drainTimeout: 5000 });
try {
  if (app.generation > 1 && Deno.statSync(`${directory}/fail`)) throw new Error("out of luck");
} catch (error) {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}
app.serve(quietly, () => {
  throw new Error("on purpose");
});
const onError = () => {
  throw new Error("worse");
};
app.serve({ path: `${directory}/worse.sock`, onError }, () => {
  throw new Error("on purpose");
});
app.serve({ path: `${directory}/http.sock` }, () => new Response(`generation ${app.generation}`));
let clients = 0;
const plain = listenAndServe(`${directory}/plain.sock`, async (_conn, response) => {
  if (++clients % 2 === 1) throw new Error("on purpose");
  await response.write(0);
}, { replace: true });
await app.ready();
await app.finished;
await plain.shutdown();
