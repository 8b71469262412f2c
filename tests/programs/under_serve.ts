/**
 * A service for `deno serve`, which takes listeners over and gives its own away. With `--parallel`
 * every worker has an instance of this module.
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

/** The server that `deno serve` made, of which a module is told no more than the address. */
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
  // The other instance may still have to see this one's server.
  await pause(60_000);
}

/** Why the server's descriptor cannot be told, once the other instance has one there, too. */
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
