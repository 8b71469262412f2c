/**
 * How a generation starts: it takes over from the one that runs, or is the first.
 *
 * @module
 */

import { Fd } from "../ffi/fd.ts";
import { setMode } from "../ffi/file.ts";
import { quoted } from "../ffi/quote.ts";
import { formatPath } from "../ffi/sockaddr.ts";
import { socketKind } from "../ffi/socket.ts";
import { either, expiring, pause } from "../ffi/time.ts";
import { prepare } from "./capture.ts";
import { Channel, isEnd } from "./channel.ts";
import { type ReceiveCallback, receiveFrom } from "./client.ts";
import { connect, sameUserOrRoot, type UnixConn } from "./conn.ts";
import { DisposableStack } from "./disposable_stack.ts";
import { checkDrainOptions } from "./drain.ts";
import { HandoverError, PeerNotAllowedError, UnsupportedRuntimeError } from "./errors.ts";
import { type Frame, type OfferedItem, protocolVersion, unexpected } from "./frame.ts";
import { Inheritance } from "./inheritance.ts";
import { listen, UnixListener } from "./listener.ts";
import { locked } from "./lock.ts";
import { guarded } from "./logger.ts";
import { logPhase } from "./phase.ts";
import { Predecessor } from "./predecessor.ts";
import { checkDuration } from "./response.ts";
import { Generation, isStarting, type StartOptions } from "./restart.ts";
import { isDenoServe } from "./serve_address.ts";
import { endStarter, keepOutput, ownToken } from "./successor.ts";
import { closeLeftovers } from "./watch.ts";

/**
 * Starts a generation of the service whose control socket is `path`: takes over from the one that
 * runs there, or is the first.
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
 * @throws {HandoverError} When the running generation refuses, or does not answer.
 * @throws {UnsupportedRuntimeError} Under `deno serve`, whose listener cannot be handed over.
 * @throws {PeerNotAllowedError} When another user's process has the path, or its `allow` refuses this one.
 */
export async function start(path: string, options: StartOptions = {}): Promise<Generation> {
  checkDrainOptions(options);
  for (const name of ["readyTimeout", "probation", "answerTimeout"] as const) {
    checkDuration(name, options[name] ?? 0);
  }
  if (options.exitTimeout !== false) checkDuration("exitTimeout", options.exitTimeout ?? 0);
  if (options.probation === Infinity) throw new RangeError("A probation has an end");
  if (isDenoServe()) {
    throw new UnsupportedRuntimeError(
      'Cannot start a generation under "deno serve": the listener of `export default` is Deno\'s own, and the ' +
        'next generation cannot get it. Run the program with "deno run", and replace `export default { fetch }` ' +
        "by `app.serve(options, fetch)` before `await app.ready()`; the options are --host and --port",
    );
  }
  closeLeftovers();
  keepOutput();
  endStarter();
  const { answerTimeout = 10_000 } = options;
  const logger = guarded(options.logger);
  const began = performance.now();
  let told = began;
  let hasOwn = false;
  for (let delay = 5;; delay = Math.min(2 * delay, 200)) {
    const taken = await takePath(path, options);
    if (taken instanceof UnixListener) return await first(path, taken, { ...options, logger });
    const outcome = await takeOver(path, taken, { ...options, logger }, began);
    if (outcome instanceof Generation) return outcome;
    const now = performance.now();
    const late = now - told > answerTimeout;
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
 * do so one after the other.
 */
async function takePath(
  path: string,
  { allow = sameUserOrRoot, mode, signal }: StartOptions,
): Promise<UnixConn | UnixListener> {
  return await locked<UnixConn | UnixListener>(path, async () => {
    try {
      return await connect(path, { allow, signal });
    } catch (error) {
      const { NotFound, ConnectionRefused } = Deno.errors;
      if (!(error instanceof NotFound || error instanceof ConnectionRefused)) throw error;
      return listen(path, { mode, replace: true });
    }
  }, signal);
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
  if (options.predecessor !== undefined) {
    foreign = await receiveForeign(options.predecessor, inheritance, options);
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
  { allow = sameUserOrRoot, answerTimeout = 10_000, signal }: StartOptions,
): Promise<UnixConn | undefined> {
  let conn: UnixConn;
  try {
    conn = await connect(path, { allow, signal });
  } catch (error) {
    const { NotFound, ConnectionRefused } = Deno.errors;
    if (error instanceof NotFound || error instanceof ConnectionRefused) return undefined;
    throw error;
  }
  using received = new DisposableStack();
  received.use(conn);
  const take: ReceiveCallback = (fd, meta) => {
    inheritance.addForeign(fd, meta ? new TextDecoder().decode(meta) : "");
  };
  using late = expiring(answerTimeout, () => {
    const what = `The server at ${formatPath(path)} has sent nothing for ${answerTimeout} ms`;
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
  const { logger, answerTimeout = 10_000, signal } = options;
  using taken = new DisposableStack();
  const channel = taken.use(new Channel(conn));
  logPhase(logger, "connected", began);
  const token = ownToken();
  await channel.tell({ type: "hello", version: protocolVersion, pid: Deno.pid, token });
  logPhase(logger, "asked", began);
  prepare();
  const answer = await channel.receive({ timeout: answerTimeout, signal }).catch((cause) => {
    if (cause.code !== "ERR_HANDOVER_PROTOCOL") throw cause;
    const what = `What listens at ${
      formatPath(path)
    } is no generation of a service: ${cause.message}`;
    throw new HandoverError(what, cause.code, { cause });
  });
  if (answer?.type === "refused") {
    if (answer.code === "peer") throw new PeerNotAllowedError(`Cannot take over: ${answer.reason}`);
    if (answer.code !== "version") return answer.reason;
  }
  if (answer?.type === "refused" || answer?.type === "rollback") {
    const code = answer.type === "refused" ? "ERR_HANDOVER_VERSION" : "ERR_HANDOVER_FAILED";
    throw new HandoverError(`Cannot take over: ${answer.reason}`, code);
  }
  if (answer && answer.type !== "offer") throw unexpected(answer);
  if (answer && answer.version !== protocolVersion) {
    const what = `it offers version ${answer.version} of the handover, not ${protocolVersion}`;
    throw new HandoverError(`Cannot take over: ${what}`, "ERR_HANDOVER_VERSION");
  }
  const inheritance = answer && await receiveOffered(channel, answer, options);
  if (!inheritance) return "the process that listens there hung up";
  taken.use(inheritance);
  const passed = inheritance.take("control", "");
  if (!passed) {
    throw new HandoverError("The offer is without a control socket", "ERR_HANDOVER_PROTOCOL");
  }
  const control = new UnixListener(taken.use(passed.fd!), path);
  if (options.mode !== undefined) setMode(path, options.mode);
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
  { pid, items }: Frame & { type: "offer" },
  { answerTimeout = 10_000, signal }: StartOptions,
): Promise<Inheritance | undefined> {
  using received = new DisposableStack();
  const inheritance = received.use(new Inheritance());
  using late = expiring(answerTimeout, () => {
    const what = `Process ${pid} has not sent what it offered for ${answerTimeout} ms`;
    return new HandoverError(what, "ERR_HANDOVER_TIMEOUT");
  });
  try {
    const waiting = { signal: either(late.signal, signal) };
    for (const item of items) {
      if (item.bytes === undefined) continue;
      inheritance.add({ item, state: await channel.receiveBytes(item.bytes, waiting) });
    }
    const open = items.filter(({ bytes }) => bytes === undefined);
    const descriptors = await channel.receiveDescriptors(open.length, waiting);
    for (const { fd } of descriptors) received.use(fd);
    // Numbers of processes of another PID namespace are other processes here (socket(7), SO_PEERCRED).
    const isElsewhere = channel.conn.peer.pid === 0;
    for (const [i, item] of open.entries()) {
      const { fd } = descriptors[i];
      checkKind(item, fd.raw);
      const donor = item.donor !== undefined && isElsewhere ? 0 : item.donor;
      inheritance.add({ item, fd: new Fd(fd.take(), donor) });
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
