// deno-lint-ignore-file no-import-prefix -- a program of its own, without an import map
// An Express application that knows nothing of a restart:
//
//   GRACEFUL_CONTROL=/tmp/shop.sock deno run -A --preload lib/auto.ts examples/no_code/express.ts
//   deno run -A lib/cli.ts restart /tmp/shop.sock
import express, { type Request, type Response } from "npm:express@5.3.0";
import process from "node:process";

const app = express();
app.all("/", (_request: Request, response: Response) => {
  response.send(`hello from process ${process.pid}\n`);
});
app.get("/slow", async (_request: Request, response: Response) => {
  await new Promise((resolve) => setTimeout(resolve, 1000));
  response.send(`a slow hello from process ${process.pid}\n`);
});
const server = app.listen(Number(process.env.PORT ?? 8000), "127.0.0.1", () => {
  console.log("listening");
});

// Called when another process has taken over, and the last answer is out; and at the end.
process.on("SIGTERM", () => server.close(() => process.exit(0)));
