/**
 * A TCP service of its own protocol, whose live connections move to the next generation: it answers
 * each line with the line, and with how many the connection has sent. A client notices nothing.
 *
 *     deno run -A examples/echo.ts &
 *     nc 127.0.0.1 7000
 *     deno run -A examples/echo.ts    the next generation: it takes over from the first
 *
 * @module
 */

import { parseArgs } from "node:util";
import { fdConn, start } from "../mod.ts";

const usage = `A TCP service whose live connections move when it is restarted.

Usage: deno run -A examples/echo.ts [options]

  --control PATH  control socket, where the next generation finds this one (/tmp/echo.sock)
  --port N        where the first generation listens (7000)
  --probation MS  how long the one before stands by, in milliseconds (5000)
  --help          this text`;

/** What is known of a connection, and goes along when it moves. */
interface State {
  /** How many lines it has sent. */
  lines: number;
  /** What was read of a line that is not whole yet. */
  rest: number[];
}

const { control, port, probation } = readFlags();
const encoder = new TextEncoder();
const newline = "\n".charCodeAt(0);

const app = await start(control, { probation });
const listener = app.listen({ hostname: "127.0.0.1", port });
await app.ready();
console.log(`generation ${app.generation} at port ${(listener.addr as Deno.NetAddr).port}`);

void acceptAll();
for await (const { fd, state } of app.arrivals()) {
  // A peer that has hung up on its way here is no connection any more.
  const conn = await fdConn(fd).catch(() => undefined);
  if (conn) void converse(conn, JSON.parse(new TextDecoder().decode(state!)));
}
await app.finished;

async function acceptAll(): Promise<void> {
  for await (const conn of listener) void converse(conn, { lines: 0, rest: [] });
}

/** Answers line by line, until the peer hangs up, the connection moves, or the service is stopped. */
async function converse(conn: Deno.Conn, state: State): Promise<void> {
  using _conn = conn;
  const chunk = new Uint8Array(4096);
  let reading = false;
  let moved: Promise<boolean> | undefined;
  const leave = async () => {
    // A line that was read is answered here; what comes after it, there.
    if (!reading) return;
    moved = app.move("echo", conn, () => encoder.encode(JSON.stringify(state)));
    // Nobody takes over: what it has sent was answered, and more is not waited for.
    if (!await moved && reading) conn[Symbol.dispose]();
  };
  app.draining.addEventListener("abort", leave);
  try {
    for (;;) {
      for (let end = state.rest.indexOf(newline); end >= 0; end = state.rest.indexOf(newline)) {
        await answer(conn, state.rest.splice(0, end + 1), ++state.lines);
      }
      reading = true;
      if (app.draining.aborted) return await leave();
      const n = await conn.read(chunk);
      reading = false;
      if (n === null) return;
      state.rest.push(...chunk.subarray(0, n));
      // What was read at the last moment moves, too.
      if (await moved) return;
    }
  } catch (error) {
    // Moved or closed while it waited to read, or the peer is gone.
    const { BadResource, ConnectionReset, BrokenPipe, Interrupted } = Deno.errors;
    const expected = [BadResource, ConnectionReset, BrokenPipe, Interrupted];
    if (!expected.some((known) => error instanceof known)) throw error;
  } finally {
    app.draining.removeEventListener("abort", leave);
  }
}

async function answer(conn: Deno.Conn, line: number[], number: number): Promise<void> {
  const words = encoder.encode(`${app.generation} ${number} `);
  for (let rest = Uint8Array.from([...words, ...line]); rest.length > 0;) {
    rest = rest.subarray(await conn.write(rest));
  }
}

function readFlags(): { control: string; port: number; probation: number } {
  try {
    const { values: { help, control, port, probation } } = parseArgs({
      options: {
        control: { type: "string", default: "/tmp/echo.sock" },
        port: { type: "string", default: "7000" },
        probation: { type: "string", default: "5000" },
        help: { type: "boolean", default: false },
      },
    });
    if (!help) {
      return {
        control,
        port: number("port", port, 65535),
        probation: number("probation", probation),
      };
    }
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${usage}`);
    Deno.exit(2);
  }
  console.log(usage);
  Deno.exit();
}

/** No timer waits longer than for the default. */
function number(flag: string, value: string, most = 2 ** 31 - 1): number {
  if (/^\d+$/.test(value) && Number(value) <= most) return Number(value);
  throw new Error(`--${flag} takes a number up to ${most}, not "${value}"`);
}
