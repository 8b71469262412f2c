import fs from "node:fs";
import http from "node:http";
import process from "node:process";

const path = process.env.ADMIN ?? "admin.sock";
let requests = 0;

http.createServer((req, res) => {
  requests++;
  const answer = () => res.end(`hello from process ${process.pid}\n`);
  setTimeout(answer, req.url === "/slow" ? 200 : 0);
}).listen(Number(process.env.PORT ?? 3000), "127.0.0.1");

// A path that a killed process has left cannot be bound again.
fs.rmSync(path, { force: true });
http.createServer((_req, res) => {
  res.end(`process ${process.pid}: ${requests} requests\n`);
}).listen(path);
