/**
 * A server that serves its first client and fails its second; what it logs, and where, is the point.
 *
 * @module
 */

import { listenAndServe } from "../../mod.ts";
import { told } from "../support/child.ts";

const [path, logger] = Deno.args;
let clients = 0;
const server = listenAndServe(path, async (_conn, response) => {
  if (++clients === 2) throw new Error("the second is one too many");
  response.debug("a word of the handler's");
  await response.write(0);
}, logger === "console" ? { logger: console } : {});
console.log("listening");
await told().next();
await server.shutdown();
