// deno-lint-ignore-file no-import-prefix -- a program of its own, without an import map
import Fastify from "npm:fastify@5.12.8";
import process from "node:process";

const fastify = Fastify();

fastify.get("/", () => `hello from process ${process.pid}\n`);

fastify.get("/slow", async () => {
  await new Promise((resolve) => setTimeout(resolve, 200));
  return `hello from process ${process.pid}\n`;
});

try {
  await fastify.listen({ port: Number(process.env.PORT ?? 3000) });
} catch (error) {
  fastify.log.error(error);
  process.exit(1);
}
