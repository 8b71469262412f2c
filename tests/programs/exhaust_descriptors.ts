/**
 * A service that opens descriptors up to its limit when it reads the line `fill`, and serves on.
 *
 * @module
 */

import { closeAll, dup } from "../../ffi/fd.ts";
import { start } from "../../mod.ts";
import { told } from "../support/child.ts";

const [path] = Deno.args;
const taken: number[] = [];
const held = Promise.withResolvers<void>();

const app = await start(path, {
  probation: 50,
  drainTimeout: 20_000,
  logger: {
    info: (message, details) => {
      const { phase } = (details ?? {}) as { phase?: string };
      console.log(phase ? `phase: ${phase}` : `info: ${message}`);
    },
    error: (message, error) => {
      console.log(`error: ${message}: ${(error as Error)?.message.replaceAll("\n", " ")}`);
    },
  },
});
const server = app.serve({ hostname: "127.0.0.1", port: 0 }, async (request) => {
  if (new URL(request.url).pathname === "/held") {
    console.log("holding");
    await held.promise;
  }
  return new Response(`generation ${app.generation}`);
});
app.listen({ path: `${path}.unix` });
if (typeof Deno.listenDatagram === "function") {
  app.listenDatagram({ hostname: "127.0.0.1", port: 0 });
}
await app.ready();
console.log(`port: ${(server.addr as Deno.NetAddr).port}`);
commands();
await app.finished;
console.log("finished");
Deno.exit();

async function commands(): Promise<void> {
  for await (const line of told()) {
    if (line === "fill") console.log(`filled: ${fill()}`);
    if (line === "free") {
      closeAll(taken.splice(0));
      console.log("freed");
    }
    if (line === "answer") held.resolve();
    if (line === "restart") {
      app.restart().then(
        ({ generation }) => console.log(`restarted: ${generation}`),
        (error) => console.log(`failed: ${error.message.replaceAll("\n", " ")}`),
      );
    }
  }
}

/** Opens descriptors up to the limit; returns how many. */
function fill(): number {
  for (;;) {
    try {
      taken.push(dup(0));
    } catch (error) {
      if ((error as { code?: string }).code !== "EMFILE") throw error;
      return taken.length;
    }
  }
}
