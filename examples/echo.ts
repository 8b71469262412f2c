/**
 * A TCP service with a protocol of its own, whose connections move to the next generation: it answers each
 * line with its generation, the number of the line in the connection, and the line. Clients stay connected.
 *
 *     deno run -A examples/echo.ts &
 *     nc 127.0.0.1 7000
 *     deno run -A examples/echo.ts    the next generation: it takes over from the first
 *
 * @module
 */

import { fdConn, start } from "../mod.ts";
import { parseFlags } from "./flags.ts";

const usage = `A TCP service whose live connections move when it is restarted.

Usage: deno run -A examples/echo.ts [options]

  --control PATH  the control socket, where the next generation finds this one (/tmp/echo.sock)
  --port N        the port of the first generation (7000)
  --probation MS  how long the predecessor stands by, in milliseconds (5000)
  --help          print this`;

/** The state of a connection, which moves with it. */
interface State {
  /** The number of lines that it has sent. */
  lines: number;
  /** The bytes of a line that is not whole yet. */
  rest: number[];
}

const { control, port, probation } = parseFlags(usage, {
  control: "/tmp/echo.sock",
  port: 7000,
  probation: 5000,
});
const encoder = new TextEncoder();
const newline = "\n".charCodeAt(0);

const app = await start(control, { probation });
const listener = app.listen({ hostname: "127.0.0.1", port });
await app.ready();
console.log(`generation ${app.generation} at port ${(listener.addr as Deno.NetAddr).port}`);

void acceptAll();
for await (const { fd, state } of app.arrivals()) {
  // fdConn() fails when the peer has closed meanwhile.
  const conn = await fdConn(fd).catch(() => undefined);
  if (conn) void serve(conn, JSON.parse(new TextDecoder().decode(state!)));
}
await app.finished;

async function acceptAll(): Promise<void> {
  for await (const conn of listener) void serve(conn, { lines: 0, rest: [] });
}

/** Answers line by line, until the peer closes, the connection moves, or the service stops. */
async function serve(conn: Deno.Conn, state: State): Promise<void> {
  using _conn = conn;
  const chunk = new Uint8Array(4096);
  let reading = false;
  let moved: Promise<boolean> | undefined;
  const moveAway = async () => {
    // Move only while nothing is being answered: lines that are read are answered by this generation.
    if (!reading) return;
    moved = app.move("echo", conn, () => encoder.encode(JSON.stringify(state)));
    // The service stops, and there is no successor: all lines are answered, so close.
    if (!await moved && reading) conn[Symbol.dispose]();
  };
  app.draining.addEventListener("abort", moveAway);
  try {
    for (;;) {
      for (let end = state.rest.indexOf(newline); end >= 0; end = state.rest.indexOf(newline)) {
        await answer(conn, state.rest.splice(0, end + 1), ++state.lines);
      }
      reading = true;
      if (app.draining.aborted) return await moveAway();
      const n = await conn.read(chunk);
      reading = false;
      if (n === null) return;
      state.rest.push(...chunk.subarray(0, n));
      // Bytes that were read just before the connection moved are in its state.
      if (await moved) return;
    }
  } catch (error) {
    // The connection was moved or closed during read(), or the peer has gone.
    const { BadResource, ConnectionReset, BrokenPipe, Interrupted } = Deno.errors;
    const expected = [BadResource, ConnectionReset, BrokenPipe, Interrupted];
    if (!expected.some((known) => error instanceof known)) throw error;
  } finally {
    app.draining.removeEventListener("abort", moveAway);
  }
}

async function answer(conn: Deno.Conn, line: number[], number: number): Promise<void> {
  const words = encoder.encode(`${app.generation} ${number} `);
  for (let rest = Uint8Array.from([...words, ...line]); rest.length > 0;) {
    rest = rest.subarray(await conn.write(rest));
  }
}
