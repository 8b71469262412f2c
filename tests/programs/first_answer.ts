/**
 * A first generation, which prints how many timers of Deno were set from its import to its first answer.
 *
 * @module
 */

let count = 0;
for (const name of ["setTimeout", "setInterval"] as const) {
  const set = globalThis[name];
  Object.defineProperty(globalThis, name, {
    value(...args: unknown[]) {
      count++;
      return Reflect.apply(set, globalThis, args);
    },
  });
}

const { start } = await import("../../mod.ts");
const app = await start(Deno.args[0]);
const server = app.serve(
  { hostname: "127.0.0.1", port: 0 },
  () => new Response("hello"),
) as Deno.HttpServer<Deno.NetAddr>;
await app.ready();
await (await fetch(`http://127.0.0.1:${server.addr.port}/`)).text();
console.log(`timers: ${count}`);
await app.stop();
