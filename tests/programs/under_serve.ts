/**
 * A module for `deno serve` that receives a listener ("take"), sends its own ("give"), or looks for the
 * descriptor of a reusePort server ("share"). With `--parallel` every worker has an instance of this module.
 *
 *     under_serve.ts take|give PATH
 *     under_serve.ts share PORT
 *
 * @module
 */

import { listenLoopback } from "../support/loopback.ts";
import { pause } from "../../lib/time.ts";
import { listenerDescriptor } from "../../lib/native/descriptor.ts";
import { fdListener, listenAndServe, listenerHandler, receive, serveHttp } from "../../mod.ts";

const [what, where] = Deno.args;
const instance = crypto.randomUUID();

function answer(): Response {
  return new Response(instance, { headers: { connection: "close" } });
}

/** Stands for the server of `deno serve`: a module gets its address alone. */
function own({ hostname, port }: Deno.NetAddr): { address(): { address: string; port: number } } {
  return { address: () => ({ address: hostname, port }) };
}

if (what === "take") {
  await receive(where, (fd) => {
    serveHttp(fd, answer);
  });
  console.log("serving");
}

if (what === "share") {
  await using server = Deno.serve(
    { hostname: "127.0.0.1", port: Number(where), reusePort: true, onListen() {} },
    answer,
  );
  console.log(await refusal(server));
  const { raw, port } = listenLoopback();
  using listener = fdListener(raw);
  const accepting = listener.accept();
  using _client = await Deno.connect({ hostname: "127.0.0.1", port });
  (await accepting).close();
  console.log("accepted");
  // The server stays: the other instance may not have looked for descriptors yet.
  await pause(60_000);
}

/** The error for two descriptors with the server's address, once the other instance has its server. */
async function refusal(server: Deno.HttpServer): Promise<string> {
  for (;;) {
    try {
      listenerDescriptor(server).close();
    } catch (error) {
      return String(error);
    }
    await pause(5);
  }
}

export default {
  fetch: answer,
  onListen(addr) {
    if (what === "give") listenAndServe(where, listenerHandler(own(addr as Deno.NetAddr)));
    console.log(`port ${(addr as Deno.NetAddr).port}`);
  },
} satisfies Deno.ServeDefaultExport;
