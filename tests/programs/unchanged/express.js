// deno-lint-ignore-file no-import-prefix -- a program of its own, without an import map
import express from "npm:express@5.3.0";
import process from "node:process";

const app = express();
const port = Number(process.env.PORT ?? 3000);

app.get("/", (_req, res) => {
  res.send(`hello from process ${process.pid}\n`);
});

app.get("/slow", (_req, res) => {
  setTimeout(() => res.send(`hello from process ${process.pid}\n`), 200);
});

app.listen(port, () => {
  console.log(`Example app listening on port ${port}`);
});
