/**
 * A WebSocket chat that is restarted while people talk. The browsers reconnect by themselves: they are
 * told "service restart" (close code 1012), and not all at once. Until the last one has moved, there
 * are people in both generations; so what is said goes through a file that both follow.
 *
 *     deno run -A examples/chat.ts &
 *     deno run -A examples/chat.ts    the next generation: it takes over from the first
 *
 * @module
 */

import { parseArgs } from "node:util";
import { start } from "../mod.ts";

const usage = `A WebSocket chat that is restarted while people talk.

Usage: deno run -A examples/chat.ts [options]

  --control PATH  control socket, where the next generation finds this one (/tmp/chat.sock)
  --log PATH      what was said (/tmp/chat.log)
  --port N        where the first generation listens (8080)
  --drain-timeout MS  how long people may take to move, in milliseconds (60000)
  --probation MS  how long the one before stands by, in milliseconds (5000)
  --help          this text`;

const { control, log, port, drainTimeout, probation } = readFlags();

const html = `<!doctype html>
<title>Chat</title>
<ul id="said"></ul>
<form><input name="text" autofocus autocomplete="off" placeholder="Say something"></form>
<script>
  const list = document.getElementById("said");
  const form = document.querySelector("form");
  let next = 0;
  let socket;
  function connect() {
    socket = new WebSocket("ws://" + location.host + "/?from=" + next);
    socket.onmessage = ({ data }) => {
      const { number, text } = JSON.parse(data);
      next = number + 1;
      list.append(Object.assign(document.createElement("li"), { textContent: text }));
    };
    socket.onclose = () => setTimeout(connect, 100);
  }
  form.onsubmit = (event) => {
    event.preventDefault();
    if (socket.readyState !== WebSocket.OPEN) return;
    socket.send(form.text.value);
    form.reset();
  };
  connect();
</script>
`;

const said: string[] = [];
const decoder = new TextDecoder();
let rest = "";
const people = new Set<WebSocket>();
const writer = await Deno.open(log, { create: true, append: true });
const reader = await Deno.open(log, { read: true });
follow();

const app = await start(control, { drainTimeout, probation });
const server = app.serve({ hostname: "127.0.0.1", port }, (request) => {
  if (request.headers.get("upgrade") !== "websocket") return page();
  const { socket, response } = app.upgradeWebSocket(request);
  join(socket, Number(new URL(request.url).searchParams.get("from")));
  return response;
});
const following = setInterval(follow, 20);
await app.ready();
const { port: bound } = server.addr as Deno.NetAddr;
console.log(`generation ${app.generation} at http://127.0.0.1:${bound}`);
await app.finished;
clearInterval(following);

/** Each message has a number: who reconnects asks for those from there on. */
function join(socket: WebSocket, from: number): void {
  socket.onopen = () => {
    for (let number = from; number < said.length; number++) tell(socket, number);
    people.add(socket);
  };
  socket.onmessage = ({ data }) => {
    const line = `${String(data).replaceAll(/\s+/g, " ").slice(0, 500)}\n`;
    // One write is one line, whoever else appends.
    writer.writeSync(new TextEncoder().encode(line));
    follow();
  };
  socket.onclose = () => people.delete(socket);
}

function tell(socket: WebSocket, number: number): void {
  if (socket.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify({ number, text: said[number] }));
}

/** Reads what was said since, in either generation, and passes it on. */
function follow(): void {
  const chunk = new Uint8Array(65536);
  for (let n = reader.readSync(chunk); n; n = reader.readSync(chunk)) {
    rest += decoder.decode(chunk.subarray(0, n), { stream: true });
  }
  const lines = rest.split("\n");
  rest = lines.pop()!;
  for (const line of lines) {
    const number = said.push(line) - 1;
    for (const person of people) tell(person, number);
  }
}

function page(): Response {
  return new Response(html, { headers: { "content-type": "text/html; charset=utf-8" } });
}

interface Flags {
  control: string;
  log: string;
  port: number;
  drainTimeout: number;
  probation: number;
}

function readFlags(): Flags {
  try {
    const { values } = parseArgs({
      options: {
        control: { type: "string", default: "/tmp/chat.sock" },
        log: { type: "string", default: "/tmp/chat.log" },
        port: { type: "string", default: "8080" },
        "drain-timeout": { type: "string", default: "60000" },
        probation: { type: "string", default: "5000" },
        help: { type: "boolean", default: false },
      },
    });
    const { help, control, log, port, "drain-timeout": drainTimeout, probation } = values;
    if (!help) {
      return {
        control,
        log,
        port: number("port", port, 65535),
        drainTimeout: number("drain-timeout", drainTimeout),
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
