/**
 * Connects to a path again and again until told to stop or until that fails, then prints how often it
 * went well and what went wrong.
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import { connect } from "../../mod.ts";
import { told } from "../support/child.ts";

const [path] = Deno.args;
let connected = 0;
let stopped = false;
let failure: string | undefined;

told().next().then(() => stopped = true);
while (!stopped && failure === undefined) {
  try {
    (await connect(path)).close();
    connected++;
    // Being told to stop takes a turn of the event loop.
    if (connected % 100 === 0) await pause(0);
  } catch (error) {
    failure = String(error);
  }
}
console.log(JSON.stringify({ connected, failure }));
Deno.exit();
