import http from "node:http";
import process from "node:process";

const server = http.createServer((req, res) => {
  setTimeout(() => {
    res.writeHead(200, { "Content-Type": "text/plain" });
    res.end(`hello from process ${process.pid}\n`);
  }, req.url === "/slow" ? 200 : 0);
});

server.listen(Number(process.env.PORT ?? 3000), "127.0.0.1");
