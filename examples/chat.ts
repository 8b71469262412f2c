/**
 * A WebSocket chat that is restarted while people chat. A draining generation closes its WebSockets with
 * code 1012 ("service restart"), a few at a time, and the browsers connect again, to the next generation.
 * Meanwhile both generations have clients: the messages go through a file that both of them follow.
 *
 *     deno run -A examples/chat.ts &
 *     deno run -A examples/chat.ts    the next generation: it takes over from the first
 *
 * @module
 */

import { start } from "../mod.ts";
import { parseFlags } from "./flags.ts";

const usage = `A WebSocket chat that is restarted while people chat.

Usage: deno run -A examples/chat.ts [options]

  --control PATH      the control socket, where the next generation finds this one (/tmp/chat.sock)
  --log PATH          the file of the messages (/tmp/chat.log)
  --port N            the port of the first generation (8080)
  --drain-timeout MS  how long clients may stay in a draining generation, in milliseconds (60000)
  --probation MS      how long the predecessor stands by, in milliseconds (5000)
  --help              print this`;

const { control, log, port, "drain-timeout": drainTimeout, probation } = parseFlags(usage, {
  "control": "/tmp/chat.sock",
  "log": "/tmp/chat.log",
  "port": 8080,
  "drain-timeout": 60_000,
  "probation": 5000,
});

const html = `<!doctype html>
<title>Chat</title>
<ul id="messages"></ul>
<form><input name="text" autofocus autocomplete="off" placeholder="Say something"></form>
<script>
  const list = document.getElementById("messages");
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

/** All messages; the number of a message is its index. */
const messages: string[] = [];
const decoder = new TextDecoder();
/** The start of a line that is not whole yet. */
let rest = "";
const clients = new Set<WebSocket>();
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

/** Adds a client, which gets the messages from number `from` on: those that it has not got yet. */
function join(socket: WebSocket, from: number): void {
  socket.onopen = () => {
    for (let number = from; number < messages.length; number++) send(socket, number);
    clients.add(socket);
  };
  socket.onmessage = ({ data }) => {
    const line = `${String(data).replaceAll(/\s+/g, " ").slice(0, 500)}\n`;
    // O_APPEND: lines that both generations write at the same time do not mix.
    writer.writeSync(new TextEncoder().encode(line));
    follow();
  };
  socket.onclose = () => clients.delete(socket);
}

function send(socket: WebSocket, number: number): void {
  if (socket.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify({ number, text: messages[number] }));
}

/** Reads the new messages of both generations, and sends them to the clients. */
function follow(): void {
  const chunk = new Uint8Array(65536);
  for (let n = reader.readSync(chunk); n; n = reader.readSync(chunk)) {
    rest += decoder.decode(chunk.subarray(0, n), { stream: true });
  }
  const lines = rest.split("\n");
  rest = lines.pop()!;
  for (const line of lines) {
    const number = messages.push(line) - 1;
    for (const client of clients) send(client, number);
  }
}

function page(): Response {
  return new Response(html, { headers: { "content-type": "text/html; charset=utf-8" } });
}
