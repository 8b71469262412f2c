/**
 * A web server for the benchmark: on a native listener, or on the same kind of listener adopted.
 *
 * @module
 */

import { dup } from "../../ffi/fd.ts";
import { listenLoopback } from "../support/loopback.ts";
import { serveHttp } from "../../mod.ts";

const hello = () => new Response("hello");
const server = Deno.args[0] === "adopted"
  ? serveHttp(listen(), hello)
  : Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, hello);
console.log((server.addr as Deno.NetAddr).port);

function listen(): number {
  return dup(listenLoopback(4096).raw);
}
