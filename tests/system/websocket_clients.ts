/**
 * Clients of websocket_service.ts that talk all the time: each sends some messages at once, with answers
 * still on their way, and connects again after a Close frame. Prints `generation: N` when the last one
 * was answered by generation N, `failed: ...` when one has no connection any more, and at the end, when
 * it is told a line, what became of each connection.
 *
 *     websocket_clients.ts PORT COUNT
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import { told } from "../support/child.ts";
import { codeOf, opcodes, RawWebSocket, textOf } from "../support/raw_websocket.ts";
import { until } from "../support/until.ts";

/** What became of a connection. */
export interface Connection {
  id: string;
  /** How many messages were answered. */
  answers: number;
  /** The code of the Close frame, or what came in its place. */
  end: number | "stopped" | string;
}

const [port, count] = Deno.args.map(Number);
const connections: Connection[] = [];
/** How many clients a generation has answered. */
const reached = new Map<number, number>();
let stopping = false;

/** Messages whose answers a client is still waiting for. */
const most = 8;

async function client(name: number): Promise<void> {
  for (let turn = 0; !stopping; turn++) {
    const connection: Connection = { id: `${name}.${turn}`, answers: 0, end: "" };
    connections.push(connection);
    try {
      connection.end = await talk(connection);
    } catch (error) {
      connection.end = String(error);
    }
    if (typeof connection.end === "number") continue;
    if (connection.end !== "stopped") console.log(`failed: ${connection.id}: ${connection.end}`);
    return;
  }
}

/** Talks to the end of the connection, and says how that came. */
async function talk(connection: Connection): Promise<Connection["end"]> {
  using socket = await RawWebSocket.connect(port, `/?id=${connection.id}`);
  let closed = false;
  let sent = 0;
  async function send(): Promise<void> {
    while (!closed && !stopping) {
      const messages = Array.from({ length: 1 + Math.floor(4 * Math.random()) }, () => `${sent++}`);
      await socket.send(...messages);
      await until(() => closed || stopping || sent - connection.answers < most);
      await pause(5 * Math.random());
    }
    if (!closed) await socket.sendClose(1000);
  }
  // The server may have gone: the other loop sees how.
  const sending = send().catch(() => {});
  try {
    for (;;) {
      const frame = await socket.next();
      if (!frame) return "the connection ended without a Close frame";
      if (frame.opcode === opcodes.close) {
        if (stopping) return "stopped";
        closed = true;
        await sending;
        try {
          await socket.sendClose(codeOf(frame));
        } catch (error) {
          return `${codeOf(frame)}, but the server did not wait for the answer: ${error}`;
        }
        await socket.ended();
        return codeOf(frame);
      }
      const [generation, number] = textOf(frame).split(" ").map(Number);
      if (number !== connection.answers) return `answer ${number} after ${connection.answers - 1}`;
      if (connection.answers++ === 0) reach(generation);
    }
  } finally {
    closed = true;
    await sending;
  }
}

function reach(generation: number): void {
  const clients = (reached.get(generation) ?? 0) + 1;
  reached.set(generation, clients);
  if (clients === count) console.log(`generation: ${generation}`);
}

const all = Promise.all(Array.from({ length: count }, (_, name) => client(name)));
void all.then(() => console.log(JSON.stringify(connections))).then(() => Deno.exit());
for await (const _line of told()) stopping = true;
stopping = true;
