/**
 * The process that has descriptors: serves sockets, whose cookies it prints, or dies half-way.
 *
 * @module
 */

import { listenAndServe, Meta } from "../../mod.ts";
import { record, sendRaw, Sockets } from "../support/raw.ts";

const [path, what, count] = Deno.args;
const { cookies, raws } = new Sockets(Number(count));

listenAndServe(path, async (conn, response) => {
  if (what === "die") {
    sendRaw(conn, record("whole"), raws.slice(0, 1));
    sendRaw(conn, record("half of it").subarray(0, 9), raws.slice(1));
    Deno.kill(Deno.pid, "SIGKILL");
  }
  for (const [i, raw] of raws.entries()) await response.write(raw, new Meta({ i }));
});
console.log(JSON.stringify(cookies.map(String)));
