import net from "node:net";
import process from "node:process";

const server = net.createServer((socket) => {
  socket.on("error", (error) => console.error(error));
  socket.write(`hello from process ${process.pid}\n`);
  socket.pipe(socket);
});

server.listen(Number(process.env.PORT ?? 7000), "127.0.0.1");
