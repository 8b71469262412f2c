/**
 * Calls that fail on a system that passes no descriptors: prints each error and the log.
 *
 * @module
 */

import "./fake_system.ts";
import * as graceful from "../../mod.ts";
import { Directory } from "../support/directory.ts";

using directory = new Directory();
Deno.unrefTimer(setTimeout(() => {
  console.log("no end");
  Deno.exit(1);
}, 20_000));
const path = directory.join("app.sock");

function print(what: string, error: unknown): void {
  const { name, message } = error as Error;
  console.log(`${what}: ${name}: ${message}`.replaceAll(directory.path, ""));
}

async function attempt(what: string, call: () => unknown): Promise<void> {
  try {
    await call();
    console.log(`${what}: done`);
  } catch (error) {
    print(what, error);
  }
}

const logger: graceful.Logger = {
  info: (message) => console.log(`info: ${message}`.replaceAll(directory.path, "")),
  warn: (message) => console.log(`warn: ${message}`),
  error: (message, error) => print(`error: ${message}`, error),
};

/** `logger` without the lines that contain durations. */
const quiet: graceful.Logger = {
  ...logger,
  info: (message) => /after [\d.]+ ms/.test(message) || logger.info!(message),
};

const parts: Record<string, () => Promise<void>> = {
  async "restarts"() {
    const app = await graceful.start(path, { logger: quiet, restartOn: ["SIGHUP"] });
    await app.ready();
    await attempt("restart()", () => app.restart());
    await attempt("restart() of a command", () => app.restart({ program: "true", args: [] }));
    const logged = Promise.withResolvers<void>();
    quiet.error = (message, error) => {
      print(`error: ${message}`, error);
      logged.resolve();
    };
    Deno.kill(Deno.pid, "SIGHUP");
    await logged.promise;
    console.log(app.status().state);
    await app.stop();
  },

  async "everything that passes descriptors"() {
    const app = await graceful.start(path, { logger: {} });
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const file = await Deno.open(directory.join("file"), { create: true, write: true });
    const server = app.serve({ hostname: "127.0.0.1", port: 0 }, () => new Response());
    const { drain, Fd, fdConn, fdFile, fdListener, fdPacketConn } = graceful;
    const attempts: Record<string, () => unknown> = {
      "keep() of a number": () => app.keep("number", 0),
      "keep() of a file": () => app.keep("file", file),
      "keep() of an Fd": () => app.keep("fd", new Fd(0)),
      drain: () => drain(server),
      fdListener: () => fdListener(0),
      fdConn: () => fdConn(0),
      fdPacketConn: () => fdPacketConn(0),
      fdFile: () => fdFile(0),
      "serveHttp on a number": () => graceful.serveHttp(0, () => new Response()),
      "serveHttp on a listener": () => graceful.serveHttp(listener, () => new Response()),
      listen: () => graceful.listen(path),
      connect: () => graceful.connect(path),
      receive: () => graceful.receive(path, () => {}),
      listenAndServe: () => graceful.listenAndServe(path, () => {}),
      send: () => graceful.send(path, 0),
    };
    for (const [what, call] of Object.entries(attempts)) await attempt(what, call);
    file.close();
    console.log(app.status().kept);
    await app.stop();
  },

  async "a second start"() {
    const app = await graceful.start(path, { logger: quiet });
    await app.ready();
    await attempt("start()", () => graceful.start(path));
    await using other = await graceful.start(directory.join("other.sock"), { logger: {} });
    console.log(other.generation);
    await app.stop();
    const next = await graceful.start(path, { logger: {} });
    console.log(next.generation);
    await next.stop();
    const aborted = AbortSignal.abort(new Error("not any more"));
    await attempt("start() that was aborted", () => graceful.start(path, { signal: aborted }));
  },

  async TestService() {
    await using service = new graceful.TestService(async (app) => {
      app.serve({ hostname: "127.0.0.1", port: 0 }, () => new Response("hello"));
      await app.ready();
      await app.finished;
    });
    const app = await service.next();
    const response = await fetch(`http://${app.status().sockets[0].address}`);
    console.log(await response.text());
    try {
      await service.next();
    } catch (error) {
      console.log((error as Error).name);
    }
    console.log(app.status().state);
  },

  async "signals"() {
    await attempt("start()", async () => await (await graceful.start(path, { logger: {} })).stop());
    for (const name of ["stopOn", "restartOn"]) {
      const options = { logger: {}, [name]: ["SIGTERM"] };
      await attempt(name, async () => await (await graceful.start(path, options)).stop());
    }
  },

  async "a stale socket file"() {
    const app = await graceful.start(path, { logger: {} });
    const address = { path: directory.join("web.sock") };
    Deno.writeTextFileSync(address.path, "");
    await attempt("serve()", () => app.serve(address, () => new Response()));
    await attempt("listen()", () => app.listen(address));
    await app.stop();
  },
};

await parts[Deno.args[0]]();
