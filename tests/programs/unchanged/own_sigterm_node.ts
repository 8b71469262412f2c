import http from "node:http";
import process from "node:process";

const server = http.createServer((req, res) => {
  const answer = () => res.end(`hello from process ${process.pid}\n`);
  setTimeout(answer, req.url === "/slow" ? 200 : 0);
});

server.listen(Number(process.env.PORT ?? 3000), "127.0.0.1");

process.on("SIGTERM", () => {
  server.close(() => {
    console.log(`process ${process.pid} is closed`);
    process.exit(0);
  });
});
