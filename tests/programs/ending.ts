/**
 * A service whose second generation ends in the way that it is told.
 *
 * @module
 */

import { start } from "../../mod.ts";
import { told } from "../support/child.ts";

const [path, how] = Deno.args;
const app = await start(path, {
  probation: how === "prevented" ? 50 : 20_000,
  exitTimeout: false,
  logger: {
    error: (message, error) => {
      if (!message.startsWith("The handover failed")) return;
      console.log(`the handover failed: ${(error as Error).message.replaceAll("\n", " ")}`);
    },
  },
});
if (app.generation > 1) await end();
await app.ready();
if (app.generation > 1 && how === "late") await fail();
console.log(`serving: ${app.generation}`);
commands();
app.draining.addEventListener("abort", () => console.log("replaced"));

async function end(): Promise<void> {
  if (how === "throw") throw new Error("out of luck");
  if (how === "reject") await fail();
  if (how === "exit") Deno.exit(3);
  if (how === "listen") {
    const { port } = Deno.listen({ hostname: "127.0.0.1", port: 0 }).addr;
    app.serve({ hostname: "127.0.0.1", port }, () => new Response());
  }
  if (how === "prevented") {
    addEventListener("unhandledrejection", (event) => event.preventDefault());
    fail();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  if (how === "timer") {
    setTimeout(() => {
      throw new Error("out of luck");
    }, 1);
    await new Promise(() => {});
  }
}

async function fail(): Promise<void> {
  await Promise.resolve();
  throw new Error("out of luck");
}

async function commands(): Promise<void> {
  for await (const line of told()) {
    if (line !== "restart") continue;
    app.restart().catch(({ message }) => {
      console.log(`failed: ${message.replaceAll("\n", " ")}`);
    });
  }
}
