// A server of Node on descriptor 3 (LISTEN_FDS), which answers with its PID.

import { createServer } from "node:http";
import process from "node:process";

const server = createServer((_request, response) => {
  response.setHeader("connection", "close");
  response.end(String(process.pid));
});
server.listen({ fd: 3 });
process.on("SIGTERM", () => server.close(() => process.exit(0)));
for (const signal of ["SIGUSR2", "SIGWINCH", "SIGQUIT"]) {
  process.on(signal, () => console.log(`got ${signal}`));
}
