/**
 * Asks for an offer and exits with code 3 when it has one, while a child process holds the connection for
 * another second.
 *
 *     leaked_connection.ts PATH
 *
 * @module
 */

import { replace } from "../../ffi/fd.ts";
import { ready } from "../../lib/event_loop/reactor.ts";
import { Channel } from "../../lib/generation/channel.ts";
import { protocolVersion } from "../../lib/generation/protocol.ts";
import { ownToken } from "../../lib/generation/environment.ts";
import { connect } from "../../mod.ts";

const conn = await connect(Deno.args[0]);
const hello = {
  type: "hello",
  version: protocolVersion,
  pid: Deno.pid,
  token: ownToken(),
} as const;
await new Channel(conn).send(hello);
await ready(conn.fd.raw, "readable");
const inherited = 100;
replace(conn.fd.raw, inherited, { keptOnExec: true });
new Deno.Command("sleep", { args: ["1"], stdin: "null", stdout: "null", stderr: "null" }).spawn();
Deno.exit(3);
