/**
 * Conversations for real: a sender that does what it is told over a connected pair, a receiver of the
 * library's at the other end, and what is wrong with what came of it.
 *
 * @module
 */

import { setImmediate } from "node:timers";
import { c, cmsg, structs } from "../../ffi/abi.ts";
import { check, errno, errnoName, uninterrupted } from "../../ffi/errno.ts";
import { closeAll, closeRaw, dup, Fd } from "../../ffi/fd.ts";
import { offsetOf } from "../../ffi/file.ts";
import { addressOf, libc } from "../../ffi/libc.ts";
import { ready } from "../../ffi/poll.ts";
import { describeDescriptor, openDescriptors } from "../../ffi/proc.ts";
import { shutdownWrite, socketPair } from "../../ffi/socket.ts";
import { pause } from "../../lib/time.ts";
import { GobError, Meta, receiveAllFrom, receiveFrom, UnixConn } from "../../mod.ts";
import {
  type Conversation,
  conversation,
  described,
  fileCount,
  type GobCase,
  gobCase,
  hexOf,
  type Message,
} from "./mutate.ts";
import { expected, type Pair } from "./oracle.ts";
import { until } from "../support/until.ts";

/** The functions under test; a control puts broken ones in their place. */
export interface Receiver {
  receiveAllFrom: typeof receiveAllFrom;
  receiveFrom: typeof receiveFrom;
}

/** What came of a conversation, or of a gob. */
export interface Outcome {
  /** "ok", or the name of the error it ended with. */
  end: string;
  delivered: number;
  /** What is wrong, in words. */
  problems: string[];
}

/** Longer than this, in milliseconds, nothing takes however busy the processors are. */
const longest = 20_000;
/** Memory of buffers that one conversation may cost beyond its limit. */
const mostExternal = 64 << 20;

// Files that can be told apart: by their offsets, which every descriptor of one shares.

const opened: number[] = [];

function fileDescriptors(): number[] {
  if (opened.length > 0) return opened;
  const path = Deno.makeTempFileSync({ prefix: "graceful-fuzz-" });
  const name = new TextEncoder().encode(`${path}\0`);
  try {
    for (let i = 0; i < fileCount; i++) {
      const raw = check(
        libc().open(name, c.O_RDONLY | c.O_CLOEXEC, 0),
        "Cannot open a file to send",
      );
      libc().lseek(raw, BigInt(i), c.SEEK_SET);
      opened.push(raw);
    }
  } finally {
    Deno.removeSync(path);
  }
  return opened;
}

/** Opens, before any count, what stays open. */
export async function warmUp(): Promise<void> {
  fileDescriptors();
  const pair = socketPair();
  await ready(pair[0], "writable");
  closeAll(pair);
  // A number that made the descriptor table grow is closed when another thread is done with it.
  await until(() => openDescriptors().every((raw) => raw < 4000));
}

// The few calls that only this needs.

let limits: Deno.DynamicLibrary<{
  setrlimit: { parameters: ["i32", "buffer"]; result: "i32" };
  getrlimit: { parameters: ["i32", "buffer"]; result: "i32" };
}>["symbols"];

function limitCalls(): typeof limits {
  return limits ??= Deno.dlopen("libc.so.6", {
    // int setrlimit(int resource, const struct rlimit *rlim);
    setrlimit: { parameters: ["i32", "buffer"], result: "i32" },
    // int getrlimit(int resource, struct rlimit *rlim);
    getrlimit: { parameters: ["i32", "buffer"], result: "i32" },
  }).symbols;
}

/** Leaves this process `spare` numbers of descriptors, to the end of the block. */
function fewDescriptors(spare: number): Disposable {
  const { setrlimit, getrlimit } = limitCalls();
  const before = structs.rlimit.pack({});
  check(getrlimit(c.RLIMIT_NOFILE, before), "Cannot read RLIMIT_NOFILE");
  const taken = Array.from({ length: spare + 1 }, () => dup(0));
  closeAll(taken);
  const few = structs.rlimit.pack({
    rlim_cur: BigInt(taken[spare]),
    rlim_max: structs.rlimit.read(before, "rlim_max"),
  });
  check(setrlimit(c.RLIMIT_NOFILE, few), "Cannot lower RLIMIT_NOFILE");
  return {
    [Symbol.dispose]: () => {
      check(setrlimit(c.RLIMIT_NOFILE, before), "Cannot restore RLIMIT_NOFILE");
    },
  };
}

const soPassPidfd = 76;
const msgOob = 1;

function setOption(raw: number, name: number, value: number): void {
  libc().setsockopt(raw, c.SOL_SOCKET, name, new Uint8Array(Int32Array.of(value).buffer), 4);
}

const none = new Uint8Array();
const sendControl = new Uint8Array(4096);
const sendControlAddress = { value: 0n };

/** One sendmsg; gives how many bytes went out, or the name of the errno. */
function sendMessage(
  raw: number,
  bytes: Uint8Array<ArrayBuffer>,
  { files, parts, credentials, urgent }: Message,
): number | string {
  sendControlAddress.value ||= addressOf(sendControl);
  const raws = files.map((file) => fileDescriptors()[file]);
  const size = Math.ceil(raws.length / parts);
  let at = 0;
  const view = new DataView(sendControl.buffer);
  const add = (type: number, words: number[]) => {
    view.setBigUint64(at, BigInt(cmsg.length(4 * words.length)), true);
    view.setInt32(at + 8, c.SOL_SOCKET, true);
    view.setInt32(at + 12, type, true);
    words.forEach((word, i) => view.setInt32(at + cmsg.length(4 * i), word, true));
    at += cmsg.space(4 * words.length);
  };
  if (credentials) add(c.SCM_CREDENTIALS, [Deno.pid, Deno.uid()!, Deno.gid()!]);
  if (raws.length > 0) {
    for (let i = 0; i < parts; i++) add(c.SCM_RIGHTS, raws.slice(i * size, (i + 1) * size));
  }
  const iov = structs.iovec.pack({ iov_base: bytes, iov_len: bytes.length }, addressOf);
  const header = structs.msghdr.pack({ msg_iov: iov, msg_iovlen: 1 }, addressOf);
  const headerView = new DataView(header.buffer);
  if (at > 0) {
    headerView.setBigUint64(structs.msghdr.offset("msg_control"), sendControlAddress.value, true);
    headerView.setBigUint64(structs.msghdr.offset("msg_controllen"), BigInt(at), true);
  }
  const flags = c.MSG_DONTWAIT | c.MSG_NOSIGNAL | (urgent ? msgOob : 0);
  const sent = uninterrupted(() => libc().sendmsg(raw, header, flags));
  return sent >= 0 ? sent : errnoName(errno());
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** The sending side: `step` by step, until it is done, told to stop, or nobody listens. */
class Sender {
  /** How many messages went out whole. */
  sent = 0;
  /** Settles when all was said and the sender has left. */
  readonly done: Promise<void>;
  readonly #talk: Conversation;
  #raw: number;
  #stalled: PromiseWithResolvers<void> | undefined;
  #stopped = false;

  constructor(raw: number, talk: Conversation) {
    this.#raw = raw;
    this.#talk = talk;
    this.done = this.#say();
  }

  /** Whether it waits for the receiver to have had enough. */
  get stalled(): boolean {
    return this.#stalled !== undefined;
  }

  resume(): void {
    const stalled = this.#stalled;
    this.#stalled = undefined;
    stalled?.resolve();
  }

  stop(): void {
    this.#stopped = true;
    this.resume();
  }

  async #say(): Promise<void> {
    const { messages, stalls, pace, ending } = this.#talk;
    try {
      for (let i = 0; i <= messages.length && !this.#stopped; i++) {
        if (stalls.includes(i)) await this.#stall();
        if (i === messages.length) break;
        if (pace === "during") await turn();
        const sending = this.#send(messages[i]);
        // What need not wait does not: the receiver begins when all is there.
        if (!(typeof sending === "boolean" ? sending : await sending)) return;
        this.sent++;
      }
      if (pace === "during") await turn();
      if (ending === "shutdown" && !this.#stopped) {
        shutdownWrite(this.#raw);
        if (pace === "during") await turn();
      }
    } finally {
      if (ending !== "shutdown" || this.#stopped) this.close();
    }
  }

  #stall(): Promise<void> {
    this.#stalled = Promise.withResolvers<void>();
    return this.#stalled.promise;
  }

  /** Gives whether there is anybody to say more to. */
  #send(message: Message): boolean | Promise<boolean> {
    let rest = message.bytes;
    let next = message;
    while (!this.#stopped) {
      const sent = sendMessage(this.#raw, rest, next);
      if (sent === "EAGAIN") return this.#sendLater({ ...next, bytes: rest });
      if (sent === "EPIPE" || sent === "ECONNRESET") return false;
      if (typeof sent === "string") throw new Error(`The fuzzer cannot send: ${sent}`);
      if (sent >= rest.length) return true;
      rest = rest.slice(sent);
      next = { ...message, files: [] };
    }
    return false;
  }

  async #sendLater(message: Message): Promise<boolean> {
    // A receiver that has stopped reading is closed next, which is readiness of a kind.
    await ready(this.#raw, "writable");
    return await this.#send(message);
  }

  close(): void {
    if (this.#raw >= 0) closeRaw(this.#raw);
    this.#raw = -1;
  }
}

/** Thrown by callbacks. */
const thrown = new Error("The callback throws");

/** What happened at the receiver's side. */
interface Seen {
  plain: Uint8Array;
  pairs: Pair[];
  end: string;
  /** What came when receiving went on after a callback had thrown. */
  again?: { pairs: Pair[]; end: string };
}

/** Holds a conversation, and judges it. */
export async function converse(
  talk: Conversation,
  receiver: Receiver = { receiveAllFrom, receiveFrom },
  { deadline = longest }: { deadline?: number } = {},
): Promise<Outcome> {
  const problems: string[] = [];
  const [raw, other] = socketPair();
  for (const what of talk.announces) {
    // A kernel before 6.5 knows no pidfds here, and announces none.
    setOption(raw, what === "pidfd" ? soPassPidfd : c.SO_PASSCRED, 1);
  }
  if (talk.narrow) setOption(other, c.SO_SNDBUF, 1);
  using conn = new UnixConn(new Fd(raw));
  // What the sender never reads makes its leaving a reset.
  if (talk.ending === "reset") await conn.write(Uint8Array.of(0));
  const before = talk.index % 64 === 0 ? Deno.memoryUsage().external : undefined;

  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error("It hangs")), deadline);
  });
  let sender: Sender | undefined;
  let seen: Seen | undefined;
  try {
    sender = new Sender(other, talk);
    // A failure of the sender's is seen where it is waited for.
    sender.done.catch(() => {});
    using _few = talk.spare === undefined ? undefined : fewDescriptors(talk.spare);
    seen = await Promise.race([received(talk, conn, sender, receiver, problems), late]);
  } catch (error) {
    problems.push(String(error));
  } finally {
    clearTimeout(timer);
    sender?.stop();
    conn.close();
    if (seen) await Promise.race([sender?.done, pauseAtMost()]);
    sender?.close();
  }
  if (before !== undefined) {
    const more = Deno.memoryUsage().external - before;
    if (more > mostExternal + talk.limit) problems.push(`${more} bytes of buffers are new`);
  }
  if (!seen) return { end: "nothing", delivered: 0, problems };
  judge(talk, seen, problems);
  return { end: seen.end, delivered: seen.pairs.length, problems };
}

/** A sender ends with the connection; if it does not, the count of descriptors tells. */
async function pauseAtMost(): Promise<void> {
  for (let i = 0; i < 1000; i++) await turn();
}

/** Receives as the conversation says, again after every abort. */
async function received(
  talk: Conversation,
  conn: UnixConn,
  sender: Sender,
  receiver: Receiver,
  problems: string[],
): Promise<Seen> {
  const pairs: Pair[] = [];
  const seen: Seen = { plain: none, pairs, end: "ok" };
  const taken: number[] = [];
  let abort = new AbortController();
  const callback = (fd: Fd, meta: Uint8Array | null): void | Promise<void> => {
    pairs.push([offsetOf(fd.raw), meta]);
    switch (talk.callback) {
      case "close":
        return fd.close();
      case "take":
        taken.push(fd.take());
        return;
      case "later":
        return pairs.length % 3 === 0 ? turn() : Promise.resolve();
      case "throw":
        if (pairs.length === talk.at) throw thrown;
        return;
      case "abort":
        if (pairs.length === talk.at) abort.abort(thrown);
    }
  };
  try {
    if (talk.plain > 0) {
      const plain = new Uint8Array(talk.plain);
      try {
        await untilTired(talk, sender, abort, seen, conn.readFull(plain, { signal: abort.signal }));
        seen.plain = plain;
      } catch (error) {
        if (error === abort.signal.reason) {
          // What was read in part is gone with the array that nobody else has.
          return { ...seen, end: "aborted" };
        }
        return { ...seen, end: nameOf(error) };
      }
    }
    for (;;) {
      const { signal } = abort;
      const options = { maxMetaBytes: talk.limit, signal };
      try {
        const run = receiveOnce(talk, conn, receiver, callback, options);
        const wasCounted = pairs.length;
        const count = await untilTired(talk, sender, abort, seen, run);
        if (count !== undefined && count !== pairs.length - wasCounted && wasCounted === 0) {
          problems.push(`it counted ${count} of ${pairs.length}`);
        }
        return seen;
      } catch (error) {
        if (signal.aborted && error === signal.reason) {
          abort = new AbortController();
          sender.resume();
          continue;
        }
        seen.end = error === thrown ? "thrown" : nameOf(error);
        if (talk.stalls.length === 0 && seen.end !== "ControlTruncatedError") {
          seen.again = await receivedAgain(talk, conn);
        }
        return seen;
      }
    }
  } finally {
    closeAll(taken);
  }
}

async function receiveOnce(
  talk: Conversation,
  conn: UnixConn,
  { receiveAllFrom, receiveFrom }: Receiver,
  callback: (fd: Fd, meta: Uint8Array | null) => void | Promise<void>,
  options: { maxMetaBytes: number; signal: AbortSignal },
): Promise<number | undefined> {
  switch (talk.reading) {
    case "all":
      return await receiveAllFrom(conn, callback, options);
    case "each": {
      let count = 0;
      for (;;) {
        const more = await receiveFrom(conn, callback, options);
        if (more === 0) return count;
        count += more;
      }
    }
    case "iterator":
      for await (const { fd, meta } of receiveAllFrom(conn, options)) await callback(fd, meta);
      return undefined;
  }
}

/** Receives without conditions, on a connection that something went wrong on. */
async function receivedAgain(talk: Conversation, conn: UnixConn): Promise<Seen["again"]> {
  const pairs: Pair[] = [];
  try {
    await receiveAllFrom(conn, (fd, meta) => void pairs.push([offsetOf(fd.raw), meta]), {
      maxMetaBytes: talk.limit,
    });
    return { pairs, end: "ok" };
  } catch (error) {
    return { pairs, end: nameOf(error) };
  }
}

/** What `run` comes to; aborts it once it has got what there is and the sender has stopped. */
async function untilTired<T>(
  talk: Conversation,
  sender: Sender,
  abort: AbortController,
  seen: Seen,
  run: Promise<T>,
): Promise<T> {
  if (talk.stalls.length === 0) return await run;
  let settled = false;
  const done = run.finally(() => settled = true);
  // Looked at again below; until then a rejection is nobody's.
  done.catch(() => {});
  while (!settled) {
    await turn();
    if (settled || !sender.stalled) continue;
    const messages = talk.messages.slice(0, sender.sent);
    const { pairs, ends } = expected(talk, { messages, ended: false });
    // What cannot be waited for is not: the deadline tells then.
    if (ends.size > 0 || seen.pairs.length < pairs.length) continue;
    await turn();
    if (!settled) abort.abort(new Error("Tired of waiting"));
    break;
  }
  return await done;
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : String(error);
}

function judge(talk: Conversation, seen: Seen, problems: string[]): void {
  const { plain, pairs, ends, early } = expected(talk);
  const { end } = seen;
  const delivered = seen.pairs.length;
  if (seen.plain.length > 0 && !same(plain, seen.plain)) problems.push("other plain bytes");
  seen.pairs.forEach((pair, i) => {
    if (i >= pairs.length) problems.push(`delivery ${i} is one too many: ${shown(pair)}`);
    else if (!samePair(pair, pairs[i])) {
      problems.push(`delivery ${i} is ${shown(pair)}, not ${shown(pairs[i])}`);
    }
  });
  if (end === "aborted") {
    if (talk.stalls.length === 0) problems.push("it was aborted by nobody");
  } else if (end === "thrown") {
    if (talk.callback !== "throw" || delivered !== talk.at) {
      problems.push(`it ended with what a callback threw at delivery ${delivered}`);
    }
  } else if (!early.has(end) && !(ends.has(end) && delivered === pairs.length)) {
    problems.push(
      `it ended with "${end}" after ${delivered} of ${pairs.length}; right is ` +
        `${[...ends].join(" or ")}${
          early.size > 0 ? `, or any time ${[...early].join(" or ")}` : ""
        }`,
    );
  }
  if (seen.again) judgeAgain(talk, seen, problems);
}

/**
 * Who goes on after an error may find the connection at the start of another message, and gets what
 * that brings; but nothing that belongs to something else.
 */
function judgeAgain(talk: Conversation, seen: Seen, problems: string[]): void {
  const { pairs: more, end } = seen.again!;
  const { pairs } = expected({ ...talk, limit: 2 ** 32, spare: undefined });
  const left = pairs.slice(seen.pairs.length);
  const inOrder = left.keys().some((at) =>
    more.every((pair, i) => left[at + i] !== undefined && samePair(pair, left[at + i]))
  );
  if (more.length > 0 && !inOrder) {
    problems.push(`after "${seen.end}" it delivered ${more.map(shown)}`);
  }
  if (!againEnds.includes(end)) problems.push(`after "${seen.end}" it ended with "${end}"`);
}

const againEnds = [
  "ok",
  "BadResource",
  "ConnectionReset",
  "ControlTruncatedError",
  "EmptyControlMessageError",
  "LongReadError",
  "SurplusDescriptorsError",
  "UnexpectedEofError",
];

function same(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

function samePair([file, meta]: Pair, [otherFile, other]: Pair): boolean {
  if (file !== otherFile) return false;
  return meta === null || other === null ? meta === other : same(meta, other);
}

function shown([file, meta]: Pair): string {
  return `file ${file} with ${meta === null ? "no meta" : hexOf(meta, 40)}`;
}

// The gob decoder.

/** Decodes what may be a gob, by `Meta.from` or another; gives what is wrong with what came of it. */
export function decodeGob(
  { bytes, value }: Pick<GobCase, "bytes" | "value">,
  from: (bytes: Uint8Array) => Meta = Meta.from,
): Outcome {
  const problems: string[] = [];
  const copy = bytes.slice();
  const start = performance.now();
  let end = "gob ok";
  let meta: Meta | undefined;
  try {
    meta = from(bytes);
  } catch (error) {
    end = nameOf(error);
    if (!(error instanceof GobError)) problems.push(wordsOf(error));
  }
  if (value && !(meta && sameValue(meta, value))) problems.push("it is not what was encoded");
  try {
    if (meta) problems.push(...unsettled(meta, from));
  } catch (error) {
    problems.push(`it cannot be encoded and decoded: ${wordsOf(error)}`);
  }
  if (!same(copy, bytes)) problems.push("it changed the bytes");
  const took = performance.now() - start;
  if (took > 5000) problems.push(`it took ${took} ms`);
  return { end, delivered: 0, problems };
}

/**
 * Kinds that have one form on the wire settle at the first encoding; a float64 that is an integer
 * beyond 2^53 becomes an int, which arrives as a bigint, at the second.
 */
function unsettled(meta: Meta, from: (bytes: Uint8Array) => Meta): string[] {
  const problems: string[] = [];
  const again = from(meta.encode());
  const settled = again.encode();
  if (!same(settled, from(settled).encode())) problems.push("its encoding does not settle");
  if (!sameValue(meta, again)) problems.push("its encoding is that of something else");
  return problems;
}

function wordsOf(error: unknown): string {
  return error instanceof Error ? error.stack ?? error.message : String(error);
}

/** Whether two values mean the same: integers may have become bigints. */
function sameValue(a: unknown, b: unknown): boolean {
  if (typeof a === "number" || typeof a === "bigint") {
    if (typeof a === typeof b) return Object.is(a, b);
    // deno-lint-ignore eqeqeq -- a number and a bigint
    return (typeof b === "number" || typeof b === "bigint") && a == b;
  }
  // On the wire a surrogate without its other half is U+FFFD.
  if (typeof a === "string") return typeof b === "string" && a === b.toWellFormed();
  if (a instanceof Uint8Array) return b instanceof Uint8Array && same(a, b);
  if (typeof a !== "object" || a === null) return a === b;
  if (typeof b !== "object" || b === null) return false;
  const [x, y] = [a, b].map((value) =>
    value instanceof Map ? [...value.entries()] : Object.entries(value)
  );
  return Array.isArray(a) === Array.isArray(b) && x.length === y.length &&
    x.every(([key, value], i) => key === y[i][0] && sameValue(value, y[i][1]));
}

// Many of them.

/** What is counted of a batch. */
export interface Tally {
  conversations: number;
  delivered: number;
  /** By what was done. */
  kinds: Record<string, number>;
  /** By how it ended. */
  ends: Record<string, number>;
  /** Conversations that something is wrong with. */
  findings: string[];
}

/** An empty tally. */
export function emptyTally(): Tally {
  return { conversations: 0, delivered: 0, kinds: {}, ends: {}, findings: [] };
}

/** Adds one tally to another. */
export function addTally(to: Tally, more: Tally): void {
  to.conversations += more.conversations;
  to.delivered += more.delivered;
  for (const [counts, added] of [[to.kinds, more.kinds], [to.ends, more.ends]]) {
    for (const [name, n] of Object.entries(added)) counts[name] = (counts[name] ?? 0) + n;
  }
  to.findings.push(...more.findings);
}

const seeds: Uint8Array[] = [];

/** The gobs that Go made: of the golden vectors, those that are short enough to do much with. */
function gobSeeds(): Uint8Array[] {
  if (seeds.length > 0) return seeds;
  const vectors: { gob: { hex?: string }[]; gob_decoder_tolerance: { hex: string }[] } = JSON.parse(
    Deno.readTextFileSync(new URL("../data/vectors.json", import.meta.url)),
  );
  for (const { hex } of [...vectors.gob, ...vectors.gob_decoder_tolerance]) {
    if (hex && hex.length <= 2000) seeds.push(Uint8Array.fromHex(hex));
  }
  return seeds;
}

/** Holds one conversation and decodes one gob. */
export async function runOne(
  seed: number,
  index: number,
  receiver?: Receiver,
): Promise<{ tally: Tally; leaked: string[] }> {
  return await runSpan(seed, index, index + 1, receiver);
}

async function runSpan(
  seed: number,
  from: number,
  to: number,
  receiver?: Receiver,
): Promise<{ tally: Tally; leaked: string[] }> {
  const tally = emptyTally();
  const count = (counts: Record<string, number>, name: string) =>
    counts[name] = (counts[name] ?? 0) + 1;
  const before = openDescriptors();
  for (let index = from; index < to; index++) {
    const talk = conversation(seed, index);
    const { end, delivered, problems } = await converse(talk, receiver);
    const gob = gobCase(seed, index, gobSeeds());
    const decoded = decodeGob(gob);
    tally.conversations++;
    tally.delivered += delivered;
    for (const kind of [...new Set(talk.kinds), ...new Set(gob.kinds)]) count(tally.kinds, kind);
    count(tally.ends, end);
    count(tally.ends, decoded.end);
    for (const problem of problems) tally.findings.push(`${problem}\n${described(talk)}`);
    for (const problem of decoded.problems) {
      tally.findings.push(
        `${problem}\nseed ${seed}, gob ${index}: ${gob.kinds}\n  ${hexOf(gob.bytes, 4096)}`,
      );
    }
  }
  return { tally, leaked: await left(before) };
}

/** The descriptors that are open and were not, or not any more, once the process closed its own. */
async function left(before: number[]): Promise<string[]> {
  for (let tries = 0;; tries++) {
    const now = openDescriptors();
    const open = new Set(now);
    const lost = before.filter((raw) => !open.delete(raw));
    const more = [...open].map(describeDescriptor)
      // Deno's caches are SQLite files that it opens when it likes.
      .filter((name) => name !== undefined && !/_cache_v\d+(-wal|-shm)?$/.test(name));
    if (lost.length + more.length === 0 || tries === 100) {
      return [...more.map((name) => `left open: ${name}`), ...lost.map((raw) => `closed: ${raw}`)];
    }
    await pause(tries);
  }
}

/** Holds the conversations of a batch; looks for the one that leaves descriptors, if one does. */
export async function runBatch(
  seed: number,
  from: number,
  to: number,
  receiver?: Receiver,
): Promise<Tally> {
  const { tally, leaked } = await runSpan(seed, from, to, receiver);
  if (leaked.length === 0) return tally;
  let found = false;
  for (let index = from; index < to && !found; index++) {
    const { leaked } = await runOne(seed, index, receiver);
    if (leaked.length === 0) continue;
    found = true;
    tally.findings.push(
      `${leaked.join(", ")}\n${described(conversation(seed, index))}`,
    );
  }
  if (!found && excused++ > 0) {
    tally.findings.push(
      `${leaked.join(", ")} after the conversations from ${from} to ${to} of seed ${seed}, and ` +
        `after none of them alone`,
    );
  }
  return tally;
}

/** Deno opens a socket pair of its own some time after its start, and keeps it. */
let excused = 0;
