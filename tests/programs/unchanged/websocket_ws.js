// deno-lint-ignore-file no-import-prefix -- a program of its own, without an import map
import http from "node:http";
import process from "node:process";
import { WebSocket, WebSocketServer } from "npm:ws@8.23.0";

const server = http.createServer((_req, res) => res.end(`hello from process ${process.pid}\n`));
const wss = new WebSocketServer({ server });

wss.on("connection", (ws, req) => {
  const id = new URL(req.url, "http://localhost").searchParams.get("id");
  let answered = 0;
  ws.on("error", console.error);
  ws.on("message", (data) => {
    if (ws.readyState !== WebSocket.OPEN) return;
    ws.send(`${process.pid} ${data}`);
    answered++;
  });
  ws.on("close", () => console.log(`answered: ${id} ${answered}`));
});

server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1");
