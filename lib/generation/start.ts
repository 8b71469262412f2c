/**
 * How a generation starts: it takes over from the one that runs, or is the first.
 *
 * @module
 */

import { Fd } from "../../ffi/fd.ts";
import { pathStatus } from "../../ffi/file.ts";
import { checkProc } from "../../ffi/proc.ts";
import { quoted } from "../../ffi/quote.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import { effectiveUser, socketKind } from "../../ffi/socket.ts";
import { noDescriptors } from "../../ffi/system.ts";
import { either, expiring, pause } from "../time.ts";
import { prepare } from "../event_loop/registration.ts";
import { Channel, isEnd } from "./channel.ts";
import { type ReceiveCallback, receiveFrom } from "../passing/client.ts";
import { connect, sameUserOrRoot, type UnixConn, type WaitOptions } from "../unix/conn.ts";
import { DenoResources } from "./deno_resources.ts";
import { DisposableStack } from "../disposable_stack.ts";
import { HandoverError, PeerNotAllowedError, UnsupportedRuntimeError } from "../errors.ts";
import { fileOf, type Frame, type OfferedItem, protocolVersion, unexpected } from "./protocol.ts";
import { Inheritance } from "./inheritance.ts";
import { listenWhereFree, UnixListener } from "../unix/listener.ts";
import { locked } from "./path_lock.ts";
import { guarded, type Logger } from "../logger.ts";
import { logPhase } from "./phase_log.ts";
import { Predecessor } from "./predecessor.ts";
import { checkPath, checkStartOptions } from "./options.ts";
import { Generation, isStarting, runsHere, type StartOptions } from "./generation.ts";
import { isDenoServe } from "../http/serve_address.ts";
import { endStarter } from "./child.ts";
import { ownToken } from "./environment.ts";
import { holdOutputPipes } from "./output.ts";
import { closeLeftovers } from "./watch.ts";

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
 */
export async function start(path: string, options: StartOptions = {}): Promise<Generation> {
  checkPath(path);
  checkStartOptions(options);
  const unsupported = noDescriptors();
  if (unsupported) return startAlone(path, options, unsupported);
  checkProc(`Cannot start at ${formatPath(path)}`);
  checkDirectory(path);
  if (isDenoServe()) {
    throw new UnsupportedRuntimeError(
      'Cannot start a generation under "deno serve": the listener of `export default` is Deno\'s own, and the ' +
        'next generation cannot get it. Run the program with "deno run", and replace `export default { fetch }` ' +
        "by `app.serve(options, fetch)` before `await app.ready()`; the options are --host and --port",
    );
  }
  closeLeftovers();
  holdOutputPipes();
  endStarter();
  const { peerTimeout = 10_000 } = options;
  const logger = guarded(options.logger);
  const began = performance.now();
  let told = began;
  let hasOwn = false;
  for (let delay = 5;; delay = Math.min(2 * delay, 200)) {
    const taken = await takePath(path, { ...options, logger });
    if (taken instanceof UnixListener) return await first(path, taken, { ...options, logger });
    const outcome = await takeOver(path, taken, { ...options, logger }, began);
    if (outcome instanceof Generation) return outcome;
    const now = performance.now();
    const late = now - told > peerTimeout;
    if (late) told = now;
    // The wait ends by itself, as a rule; where it does not, or cannot, it is an error.
    logger[late ? "error" : "debug"]?.(
      `Waiting for ${Math.round((now - began) / 1000)} s to take over at ${
        formatPath(path)
      }: ${outcome}`,
    );
    if (!hasOwn && isStarting(path)) {
      hasOwn = true;
      logger.error?.(
        `Cannot take over at ${
          formatPath(path)
        } yet: this process has started a generation there that ` +
          "is not ready; call its ready(), or its stop() before start()",
      );
    }
    await pause(delay, options.signal);
  }
}

/**
 * Connects to the generation that runs at `path`, or listens there if none does; two that start at once
 * do so one after the other. To connect takes no lock.
 */
async function takePath(
  path: string,
  options: StartOptions & { logger: Logger },
): Promise<UnixConn | UnixListener> {
  const { mode, peerTimeout: timeout = 10_000, logger, signal } = options;
  try {
    return await connectIfServed(path, options) ?? await locked<UnixConn | UnixListener>(
      path,
      async () => await connectIfServed(path, options) ?? listenWhereFree(path, { mode }),
      { timeout, logger, signal },
    );
  } catch (error) {
    throw error instanceof Deno.errors.PermissionDenied ? denied(path, error) : error;
  }
}

/** Connects to the process that listens at `path`; gives undefined when none does. */
async function connectIfServed(
  path: string,
  { allow = sameUserOrRoot, signal }: StartOptions,
): Promise<UnixConn | undefined> {
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
function startAlone(path: string, options: StartOptions, unsupported: Error): Generation {
  options.signal?.throwIfAborted();
  if (runsHere(path)) {
    throw new Deno.errors.NotSupported(
      `Cannot start another generation at ${formatPath(path)}, where one of this process runs: ` +
        `none takes over from it on this system (${unsupported.message}). Stop that one first, and wait ` +
        "until it has `finished`",
    );
  }
  const logger = guarded(options.logger);
  logger.info?.(
    `${unsupported.message}: the generation at ${
      formatPath(path)
    } serves without a next one, and its ` +
      "restart() rejects",
  );
  return new Generation(path, { ...options, logger }, {
    generation: 1,
    inheritance: new Inheritance(),
    resources: (options) => new DenoResources(options),
  });
}

async function first(
  path: string,
  control: UnixListener,
  options: StartOptions,
): Promise<Generation> {
  using started = new DisposableStack();
  started.use(control);
  const inheritance = started.use(new Inheritance());
  let foreign: UnixConn | undefined;
  if (options.inheritFrom !== undefined) {
    foreign = await receiveForeign(options.inheritFrom, inheritance, options);
    if (foreign) started.use(foreign);
  }
  const generation = new Generation(path, options, {
    generation: 1,
    control,
    inheritance,
    foreign,
  });
  started.move();
  return generation;
}

/** Takes what a plain server sends; resolves to the connection, by which it is told that it is served. */
async function receiveForeign(
  path: string,
  inheritance: Inheritance,
  options: StartOptions,
): Promise<UnixConn | undefined> {
  const { peerTimeout = 10_000, signal } = options;
  const conn = await connectIfServed(path, options);
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
 * Milliseconds without another descriptor after which a plain server has sent all that it has. One that
 * waits for a word that they are served does not say so by the end of its stream.
 */
const quietTime = 500;

/** Takes over from the generation at the other end; gives why not, when another answer may come later. */
async function takeOver(
  path: string,
  conn: UnixConn,
  options: StartOptions,
  began: number,
): Promise<Generation | string> {
  const { logger, peerTimeout = 10_000, signal } = options;
  using taken = new DisposableStack();
  const channel = taken.use(new Channel(conn, peerTimeout));
  logPhase(logger, "connected", began);
  const token = ownToken();
  const { service } = options;
  await channel.tell({ type: "hello", version: protocolVersion, pid: Deno.pid, token, service });
  logPhase(logger, "asked", began);
  prepare();
  using late = channel.stalling(
    peerTimeout,
    `The generation that runs at ${
      formatPath(path)
    }, process ${conn.peer.pid}, has sent nothing for ` +
      `${peerTimeout} ms, on which this one waits: it hangs, or was stopped (SIGSTOP); end that ` +
      "process, or start this one with a longer `peerTimeout`",
  );
  const waiting = { signal: either(late.signal, signal) };
  const answer = await channel.receive(waiting).catch((cause) => {
    if (cause.code !== "ERR_HANDOVER_PROTOCOL") throw cause;
    const what = `What listens at ${
      formatPath(path)
    } is no generation of a service: ${cause.message}; end it, or choose another path`;
    throw new HandoverError(what, cause.code, { cause });
  });
  if (answer?.type === "refused") {
    if (answer.code === "peer") {
      throw new PeerNotAllowedError(
        `Cannot take over: ${answer.reason}. Run it as the user of the generation that runs there, or have ` +
          "the `allow` of that one let it in",
      );
    }
    if (answer.code === "busy" || answer.code === "leaving") return answer.reason;
  }
  if (answer?.type === "refused" || answer?.type === "rollback") {
    const code = answer.type === "rollback"
      ? "ERR_HANDOVER_FAILED"
      : answer.code === "service"
      ? "ERR_HANDOVER_SERVICE"
      : "ERR_HANDOVER_VERSION";
    throw new HandoverError(`Cannot take over at ${formatPath(path)}: ${answer.reason}`, code);
  }
  if (answer && answer.type !== "offer") throw unexpected(answer);
  if (answer && answer.version !== protocolVersion) {
    const what = `it offers version ${answer.version} of the handover, not ${protocolVersion}`;
    throw new HandoverError(`Cannot take over: ${what}`, "ERR_HANDOVER_VERSION");
  }
  const inheritance = answer && await receiveOffered(channel, answer, waiting);
  if (!inheritance) {
    return "the process that listens there hung up: it has ended just now, or is no generation of a service";
  }
  taken.use(inheritance);
  const passed = inheritance.take("control", "");
  if (!passed) {
    throw new HandoverError("The offer is without a control socket", "ERR_HANDOVER_PROTOCOL");
  }
  const { file } = passed.item;
  const control = new UnixListener(taken.use(passed.fd!), path, file && fileOf(file));
  if (options.mode !== undefined && file) control.setMode(options.mode);
  const { pid } = answer;
  const generation = answer.generation + 1;
  logPhase(logger, "inherited", began, { generation, predecessor: pid });
  const predecessor = new Predecessor(channel, answer);
  const next = new Generation(path, options, { generation, control, inheritance, predecessor });
  taken.move();
  return next;
}

/** Receives what an offer announces; gives undefined when the process that offers it has ended. */
async function receiveOffered(
  channel: Channel,
  { items: first, more = 0 }: Frame & { type: "offer" },
  waiting: WaitOptions,
): Promise<Inheritance | undefined> {
  using received = new DisposableStack();
  const inheritance = received.use(new Inheritance());
  try {
    const items = [...first];
    for (let left = more; left > 0;) {
      const frame = await channel.receive(waiting);
      if (!frame) return undefined;
      const count = frame.type === "items" ? frame.items.length : 0;
      if (frame.type !== "items" || count === 0 || count > left) throw unexpected(frame);
      for (const item of frame.items) items.push(item);
      left -= frame.items.length;
    }
    const announced = items.filter(({ bytes }) => bytes !== undefined);
    const states = await channel.receiveState(announced.map(({ bytes }) => bytes!), waiting);
    for (const [i, item] of announced.entries()) inheritance.add({ item, state: states[i] });
    const open = items.filter(({ bytes }) => bytes === undefined);
    const descriptors = await channel.receiveDescriptors(open.length, waiting);
    for (const { fd } of descriptors) received.use(fd);
    // Numbers of processes of another PID namespace are other processes here (socket(7), SO_PEERCRED).
    const isElsewhere = channel.conn.peer.pid === 0;
    for (const [i, item] of open.entries()) {
      const { fd } = descriptors[i];
      checkKind(item, fd.raw);
      const senderPid = item.senderPid !== undefined && isElsewhere ? 0 : item.senderPid;
      inheritance.add({ item, fd: new Fd(fd.take(), senderPid) });
    }
  } catch (error) {
    if (isEnd(error)) return undefined;
    throw error;
  }
  received.move();
  return inheritance;
}

/** @throws {HandoverError} When a descriptor is not what its item says. */
function checkKind({ kind, path, key }: OfferedItem, raw: number): void {
  const isListener = kind === "listener" || kind === "control";
  if (!isListener && kind !== "datagram") return;
  const is = socketKind(raw);
  const fits = isListener ? is?.type === "stream" && is.listening : is?.type === "datagram";
  const isUnix = kind === "control" || path !== undefined;
  if (fits && (!isUnix || is?.domain === "unix")) return;
  const what = isListener ? `listening ${isUnix ? "unix " : ""}stream socket` : "datagram socket";
  throw new HandoverError(
    `The descriptor that was offered as ${kind} ${quoted(key)} is no ${what}`,
    "ERR_HANDOVER_PROTOCOL",
  );
}
