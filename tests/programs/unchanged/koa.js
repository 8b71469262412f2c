// deno-lint-ignore-file no-import-prefix -- a program of its own, without an import map
import Koa from "npm:koa@3.3.0";
import process from "node:process";

const app = new Koa();

app.use(async (ctx) => {
  if (ctx.path === "/slow") await new Promise((resolve) => setTimeout(resolve, 200));
  ctx.body = `hello from process ${process.pid}\n`;
});

app.listen(Number(process.env.PORT ?? 3000));
