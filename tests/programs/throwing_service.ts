/**
 * A service one of whose functions throws: a listener of `draining`, `onListen`, ...
 *
 * @module
 */

import { type Logger, start } from "../../mod.ts";
import { told } from "../support/child.ts";

/** The functions that can throw or reject. */
export const faults = [
  "listener",
  "async listener",
  "onabort",
  "dependent signal",
  "stream of a client that has left",
  "onListen",
  "kept state",
  "logger",
  "allow",
  "state of a move",
] as const;

if (import.meta.main) await main(Deno.args[0], Deno.args[1] as typeof faults[number]);

async function main(path: string, fault: typeof faults[number]): Promise<void> {
  const fail = (): never => {
    throw new Error(`out of luck: ${fault}`);
  };
  const log = (message: string, error?: unknown) => {
    if (error instanceof Error) console.log(`error: ${message}: ${oneLine(error)}`);
  };
  const logger: Logger = fault === "logger"
    ? { debug: fail, info: fail, error: fail }
    : { error: log };
  const app = await start(path, {
    probation: 50,
    drainTimeout: 20_000,
    logger,
    ...(fault === "allow" && { allow: fail }),
  });
  const held = Promise.withResolvers<void>();
  const moved = Promise.withResolvers<boolean>();
  let stream: ReadableStreamDefaultController | undefined;

  const answer = async (request: Request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/stream") {
      const start = (controller: ReadableStreamDefaultController) => {
        stream = controller;
        controller.enqueue(new TextEncoder().encode("first"));
      };
      return new Response(new ReadableStream({ start, cancel: () => console.log("cancelled") }));
    }
    if (pathname === "/held") {
      console.log("holding");
      await held.promise;
    }
    return new Response(`generation ${app.generation}.`);
  };
  const here = { hostname: "127.0.0.1", port: 0 };
  if (fault === "onListen") {
    try {
      app.serve({ ...here, onListen: fail }, answer);
    } catch (error) {
      console.log(`caught: ${oneLine(error as Error)}`);
    }
  }
  const server = app.serve(here, answer);
  const listener = app.listen(here);

  const signal = app.draining;
  if (fault === "listener") signal.addEventListener("abort", fail);
  if (fault === "async listener") {
    signal.addEventListener("abort", async () => {
      await undefined;
      fail();
    });
  }
  if (fault === "onabort") signal.onabort = fail;
  if (fault === "dependent signal") AbortSignal.any([signal]).addEventListener("abort", fail);
  if (fault === "stream of a client that has left") {
    signal.addEventListener("abort", () => stream?.close());
  }
  if (fault === "kept state") app.keep("state", fail);
  const removed = () => console.log("a listener that was removed is called");
  signal.addEventListener("abort", removed);
  signal.removeEventListener("abort", removed);
  signal.addEventListener("abort", { handleEvent: () => console.log("draining") });

  await app.ready();
  const portOf = ({ addr }: { addr: Deno.Addr }) => (addr as Deno.NetAddr).port;
  console.log(`serving: ${app.generation} ${portOf(server)} ${portOf(listener)} ${Deno.pid}`);
  commands();
  if (fault === "state of a move") {
    const conn = await listener.accept();
    console.log("accepted");
    signal.addEventListener("abort", () => moved.resolve(app.move("conn", conn, fail)));
    console.log(`moved: ${await moved.promise}`);
    try {
      conn.close();
    } catch (error) {
      // The connection is closed already.
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
  }
  await app.finished;
  console.log("finished");
  Deno.exit();

  async function commands(): Promise<void> {
    for await (const line of told()) {
      if (line === "answer") held.resolve();
      if (line === "restart") {
        app.restart().then(
          ({ generation }) => console.log(`restarted: ${generation}`),
          (error) => console.log(`failed: ${oneLine(error)}`),
        );
      }
    }
  }
}

function oneLine({ message }: Error): string {
  return message.replaceAll("\n", " ");
}
