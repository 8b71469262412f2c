/**
 * Clients of websocket_service.ts that send all the time: each sends some messages at once, before the
 * previous ones are answered, and connects again after a Close frame. The process prints `generation: N`
 * when generation N has answered every client, `failed: ...` when a client has no connection any more, and,
 * after it has read a line, the results of all connections as JSON.
 *
 *     websocket_clients.ts PORT COUNT SEED
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import { Chance } from "../support/chance.ts";
import { told } from "../support/child.ts";
import { codeOf, opcodes, RawWebSocket, textOf } from "../support/raw_websocket.ts";
import { until } from "../support/until.ts";

/** The result of a connection. */
export interface Connection {
  id: string;
  /** The number of messages that were sent. */
  sent: number;
  /** The number of answered messages. */
  answers: number;
  /** The code of the Close frame; "stopped"; or what happened instead of a Close frame. */
  end: number | "stopped" | string;
}

const [port, count, seed] = Deno.args.map(Number);
const connections: Connection[] = [];
/** By generation: how many clients it has answered. */
const reached = new Map<number, number>();
let stopping = false;

/** The most messages of a client that are not answered yet. */
const most = 8;

async function client(name: number): Promise<void> {
  const chance = new Chance(seed, name);
  for (let turn = 0; !stopping; turn++) {
    const connection: Connection = { id: `${name}.${turn}`, sent: 0, answers: 0, end: "" };
    connections.push(connection);
    try {
      connection.end = await talk(connection, chance);
    } catch (error) {
      connection.end = String(error);
    }
    if (typeof connection.end === "number") continue;
    if (connection.end !== "stopped") console.log(`failed: ${connection.id}: ${connection.end}`);
    return;
  }
}

/** Sends and receives to the end of the connection; gives its result. */
async function talk(connection: Connection, chance: Chance): Promise<Connection["end"]> {
  using socket = await RawWebSocket.connect(port, `/?id=${connection.id}`);
  let closed = false;
  async function send(): Promise<void> {
    while (!closed && !stopping) {
      const messages = Array.from({ length: 1 + chance.below(4) }, () => `${connection.sent++}`);
      await socket.send(...messages);
      await until(() => closed || stopping || connection.sent - connection.answers < most);
      await pause(5 * chance.next());
    }
    if (!closed) await socket.sendClose(1000);
  }
  // Sending fails when the server has gone: the loop below reports how the connection ended.
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
