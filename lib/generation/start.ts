/**
 * How a generation starts: it takes over from the one that runs, or is the first.
 *
 * @module
 */

import { pathStatus } from "../../ffi/file.ts";
import { checkProc } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import { effectiveUser } from "../../ffi/peer.ts";
import { noDescriptors } from "../../ffi/system.ts";
import { DisposableStack } from "../disposable_stack.ts";
import { HandoverError, UnsupportedRuntimeError } from "../errors.ts";
import { isDenoServe } from "../http/serve_address.ts";
import { type ReceiveCallback, receiveFrom } from "../passing/client.ts";
import { listenFds } from "../systemd/listen_fds.ts";
import { either, expiring, pause } from "../time.ts";
import { connect, type UnixConn } from "../unix/conn.ts";
import { listenWhereFree, UnixListener } from "../unix/listener.ts";
import { endStarter } from "./child.ts";
import { holdOutputPipes } from "./output.ts";
import { DenoResources } from "./deno_resources.ts";
import { Generation } from "./generation.ts";
import { Inheritance } from "./inheritance.ts";
import {
  checkPath,
  checkStartOptions,
  type Settings,
  type StartOptions,
  withDefaults,
} from "./options.ts";
import { isStarting, runsHere } from "./own_process.ts";
import { locked } from "./path_lock.ts";
import { type Accepted, requestOffer } from "./takeover.ts";
import { isToldByMainPid } from "./service_manager.ts";
import { closeLeftovers } from "./watch.ts";

/** The global name of what the preload module gives the program; another copy of the library finds it too. */
export const preloadKey: symbol = Symbol.for("graceful");

/**
 * Starts a generation of the service whose control socket is `path`: takes over from the one that
 * runs there, or is the first. On macOS, Windows and other systems that pass no descriptors it is the only
 * one: it serves with Deno's own calls, there is no control socket, `restart()` rejects, and the options that are
 * about other generations are not used.
 *
 * ```ts
 * import { start } from "@graceful/deno";
 *
 * const app = await start(`${await Deno.makeTempDir()}/app.sock`); // "/run/app.sock"
 * app.serve({ hostname: "127.0.0.1", port: 0 }, () => new Response("hello"));
 * await app.ready();
 * console.log("generation", app.generation, "accepts");
 * await app.stop(); // in a service: await app.finished
 * ```
 *
 * @throws {HandoverError} When the running generation refuses, or does not answer, or is of a service of
 * another name.
 * @throws {UnsupportedRuntimeError} Under `deno serve`, whose listener cannot be handed over.
 * @throws {PeerNotAllowedError} When another user's process has the path, or its `allow` refuses this one.
 * @throws {Deno.errors.NotSupported} For a second one at that path in one process, where none can take over.
 * @throws {TypeError} When the preload module has made the program a generation.
 */
export async function start(path: string, options: StartOptions = {}): Promise<Generation> {
  checkPath(path);
  checkStartOptions(options);
  if (preloadKey in globalThis) {
    throw new TypeError(
      `Cannot start at ${
        formatPath(path)
      }: the preload module has started a generation of this program, ` +
        "and both would restart its process; run the program without `--preload`, or with GRACEFUL=off",
    );
  }
  return await startWith(path, withDefaults(options));
}

/** {@linkcode start}, with options that were checked. */
export async function startWith(path: string, settings: Settings): Promise<Generation> {
  const unsupported = noDescriptors();
  if (unsupported) return startAlone(path, settings, unsupported);
  checkProc(`Cannot start at ${formatPath(path)}`);
  checkDirectory(path);
  if (isDenoServe() && !settings.isPreloaded) {
    throw new UnsupportedRuntimeError(
      'Cannot start a generation under "deno serve": the listener of `export default` is Deno\'s own, and the ' +
        'next generation cannot get it. Run the program with "deno run", and replace `export default { fetch }` ' +
        "by `app.serve(options, fetch)` before `await app.ready()`; the options are --host and --port",
    );
  }
  closeLeftovers();
  holdOutputPipes();
  if (!isToldByMainPid()) endStarter();
  const { peerTimeout, logger } = settings;
  const began = performance.now();
  let logged = began;
  let isOwnLogged = false;
  for (let delay = 5;; delay = Math.min(2 * delay, 200)) {
    const taken = await takePath(path, settings);
    if (taken instanceof UnixListener) return await startFirst(path, taken, settings);
    const outcome = await requestOffer(path, taken, settings, began);
    if ("accepted" in outcome) return startNext(path, settings, outcome.accepted);
    const now = performance.now();
    const isLate = now - logged > peerTimeout;
    if (isLate) logged = now;
    // The wait ends by itself, as a rule; a wait that is long is logged as an error.
    logger[isLate ? "error" : "debug"]?.(
      `Waiting for ${Math.round((now - began) / 1000)} s to take over at ${
        formatPath(path)
      }: ${outcome.busy}`,
    );
    if (!isOwnLogged && isStarting(path)) {
      isOwnLogged = true;
      logger.error?.(
        `Cannot take over at ${
          formatPath(path)
        } yet: this process has started a generation there that ` +
          "is not ready; call its ready(), or its stop() before start()",
      );
    }
    await pause(delay, settings.signal);
  }
}

/**
 * Connects to the generation that runs at `path`, or listens there if none does; two that start at once
 * do so one after the other. To connect takes no lock.
 */
async function takePath(
  path: string,
  settings: Settings,
): Promise<UnixConn | UnixListener> {
  const { mode, peerTimeout: timeout, logger, signal } = settings;
  try {
    return await connectIfServed(path, settings) ?? await locked<UnixConn | UnixListener>(
      path,
      async () => await connectIfServed(path, settings) ?? listenWhereFree(path, { mode }),
      { timeout, logger, signal },
    );
  } catch (error) {
    throw error instanceof Deno.errors.PermissionDenied ? denied(path, error) : error;
  }
}

/** Connects to the process that listens at `path`; gives undefined when none does. */
async function connectIfServed(
  path: string,
  { allow, signal }: Settings,
): Promise<UnixConn | undefined> {
  // Looked at first: the first error of a process takes Deno 10 ms to make.
  if (pathStatus(path) === undefined) return undefined;
  try {
    return await connect(path, { allow, signal });
  } catch (error) {
    const { NotFound, ConnectionRefused } = Deno.errors;
    if (error instanceof NotFound || error instanceof ConnectionRefused) return undefined;
    throw error;
  }
}

/** The same error, with what to do. */
function denied(path: string, cause: Deno.errors.PermissionDenied & { code?: string }): Error {
  const what =
    `${cause.message}. User ${effectiveUser()} has to be able to write in its directory, ` +
    `${
      quoted(directoryOf(path))
    }, and to be the user of the generation that runs there, if one does: ` +
    "change the owner of the directory (RuntimeDirectory= under systemd), or the user of the service";
  return Object.assign(new Deno.errors.PermissionDenied(what), { code: cause.code, cause });
}

/** @throws {Deno.errors.NotFound | Deno.errors.NotADirectory} When there is no directory for it. */
function checkDirectory(path: string): void {
  const directory = directoryOf(path);
  const kind = pathStatus(directory)?.kind;
  if (kind === "directory") return;
  const attempt = `Cannot start at ${formatPath(path)}`;
  if (kind !== undefined) {
    const what = `${attempt}: ${
      quoted(directory)
    } is no directory, but a file (${kind}); give another path`;
    throw Object.assign(new Deno.errors.NotADirectory(what), { code: "ENOTDIR" });
  }
  const what =
    `${attempt}: user ${effectiveUser()} finds no directory ${quoted(directory)}; create it, ` +
    "with that user as its owner (RuntimeDirectory= under systemd)";
  throw Object.assign(new Deno.errors.NotFound(what), { code: "ENOENT" });
}

function directoryOf(path: string): string {
  const end = path.lastIndexOf("/");
  return end < 0 ? "." : path.slice(0, end) || "/";
}

/** Starts the only generation, on a system on which no other one can take over from it. */
function startAlone(path: string, settings: Settings, unsupported: Error): Generation {
  settings.signal?.throwIfAborted();
  if (runsHere(path)) {
    throw new Deno.errors.NotSupported(
      `Cannot start another generation at ${formatPath(path)}, where one of this process runs: ` +
        `none takes over from it on this system (${unsupported.message}). Stop that one first, and wait ` +
        "until it has `finished`",
    );
  }
  settings.logger.info?.(
    `${unsupported.message}: the generation at ${
      formatPath(path)
    } serves without a next one, and its ` +
      "restart() rejects",
  );
  return new Generation(path, settings, {
    generation: 1,
    inheritance: new Inheritance(),
    resources: (options) => new DenoResources(options),
  });
}

/** Starts the first generation, on the control socket that it has bound. */
async function startFirst(
  path: string,
  control: UnixListener,
  settings: Settings,
): Promise<Generation> {
  using started = new DisposableStack();
  started.use(control);
  const inheritance = started.use(new Inheritance());
  let foreign: UnixConn | undefined;
  if (settings.inheritFrom !== undefined) {
    foreign = await inheritForeign(settings.inheritFrom, inheritance, settings);
    if (foreign) started.use(foreign);
  }
  addActivated(inheritance, settings);
  const generation = new Generation(path, settings, {
    generation: 1,
    control,
    inheritance,
    foreign,
  });
  started.move();
  return generation;
}

/** Starts the generation that has received an offer. */
function startNext(path: string, settings: Settings, accepted: Accepted): Generation {
  using received = new DisposableStack();
  received.use(accepted.predecessor);
  received.use(accepted.inheritance);
  // Its descriptor alone: the path leads to the predecessor.
  received.use(accepted.control.fd);
  addActivated(accepted.inheritance, settings);
  const generation = new Generation(path, settings, accepted);
  received.move();
  return generation;
}

/** Inherits what the service manager has passed, as far as the previous generation has not handed it over. */
function addActivated(inheritance: Inheritance, { logger }: Settings): void {
  using passed = new DisposableStack();
  const activated = listenFds({ logger });
  // On an error, such as EMFILE, all of them are closed.
  for (const { fd } of activated) passed.use(fd);
  for (const each of activated) inheritance.addActivated(each);
  passed.move();
  inheritance.addActivatedHere();
}

/** Inherits what a plain server sends; gives the connection, over which the server is told that it is served. */
async function inheritForeign(
  path: string,
  inheritance: Inheritance,
  settings: Settings,
): Promise<UnixConn | undefined> {
  const { peerTimeout, signal } = settings;
  const conn = await connectIfServed(path, settings);
  if (!conn) return undefined;
  using received = new DisposableStack();
  received.use(conn);
  const take: ReceiveCallback = (fd, meta) => {
    inheritance.addForeign(fd, meta ? new TextDecoder().decode(meta) : "");
  };
  using late = expiring(peerTimeout, () => {
    const what = `The server at ${formatPath(path)} has sent nothing for ${peerTimeout} ms`;
    return new HandoverError(what, "ERR_HANDOVER_TIMEOUT");
  });
  let more = await receiveFrom(conn, take, { signal: either(late.signal, signal) }) > 0;
  while (more) {
    using quiet = expiring(quietTime, () => new Error("That was all"));
    more = await receiveFrom(conn, take, { signal: either(quiet.signal, signal) }).then(
      (count) => count > 0,
      (error) => {
        if (error === quiet.signal.reason) return false;
        throw error;
      },
    );
  }
  received.move();
  return conn;
}

/**
 * Milliseconds without another descriptor after which a plain server has sent all that it has: a server that waits for
 * "ready" does not end its stream before.
 */
const quietTime = 500;
