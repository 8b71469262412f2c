/**
 * Runs a conversation: the sender of the fuzzer at one end of a socket pair, a receiver of the library at
 * the other, and the check of what was received.
 *
 * @module
 */

import { c, structs } from "../../ffi/abi.ts";
import { check } from "../../ffi/errno.ts";
import { closeAll, dup, Fd } from "../../ffi/fd.ts";
import { offsetOf } from "../../ffi/file.ts";
import { libc } from "../../ffi/libc.ts";
import { socketPair } from "../../ffi/socket.ts";
import { receiveAllFrom, receiveFrom, UnixConn } from "../../mod.ts";
import { type Conversation, hexOf } from "./fuzz_conversation.ts";
import { expected, type Pair } from "./fuzz_expected.ts";
import { Sender, yieldToEventLoop } from "./fuzz_sender.ts";

/** The functions under test; a control replaces them by broken ones. */
export interface Receiver {
  receiveAllFrom: typeof receiveAllFrom;
  receiveFrom: typeof receiveFrom;
}

/** The result of a conversation, or of decoding a gob. */
export interface Outcome {
  /** "ok", or the name of the error that it ended with. */
  end: string;
  delivered: number;
  /** What is wrong with it, in words. */
  problems: string[];
}

/** Milliseconds after which a conversation hangs, however busy the processors are. */
const longest = 20_000;
/** Bytes of buffers that a conversation may allocate beyond its limit. */
const mostExternal = 64 << 20;

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

/** Lowers RLIMIT_NOFILE to the end of the block: the process can open `spare` more descriptors. */
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

/** SO_PASSPIDFD of <asm-generic/socket.h>. */
const soPassPidfd = 76;

function setOption(raw: number, name: number, value: number): void {
  libc().setsockopt(raw, c.SOL_SOCKET, name, new Uint8Array(Int32Array.of(value).buffer), 4);
}

const none = new Uint8Array();

/** The error that callbacks throw. */
const thrown = new Error("The callback throws");

/** What the receiver got. */
interface Received {
  plain: Uint8Array;
  pairs: Pair[];
  end: string;
  /** What it got when it received again after an error. */
  again?: { pairs: Pair[]; end: string };
}

/** Runs a conversation, and checks what was received. */
export async function runConversation(
  conversation: Conversation,
  receiver: Receiver = { receiveAllFrom, receiveFrom },
  { deadline = longest }: { deadline?: number } = {},
): Promise<Outcome> {
  const problems: string[] = [];
  const [raw, other] = socketPair();
  for (const what of conversation.announces) {
    // A kernel before 6.5 has no SO_PASSPIDFD: setsockopt(2) fails, and no pidfd is announced.
    setOption(raw, what === "pidfd" ? soPassPidfd : c.SO_PASSCRED, 1);
  }
  if (conversation.narrow) setOption(other, c.SO_SNDBUF, 1);
  using conn = new UnixConn(new Fd(raw));
  // A byte that the sender never reads: its close(2) resets the connection.
  if (conversation.ending === "reset") await conn.write(Uint8Array.of(0));
  const before = conversation.index % 64 === 0 ? Deno.memoryUsage().external : undefined;

  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error("The receiver hangs")), deadline);
  });
  let sender: Sender | undefined;
  let seen: Received | undefined;
  try {
    sender = new Sender(other, conversation);
    // A failure of the sender is thrown where `done` is awaited.
    sender.done.catch(() => {});
    using _few = conversation.spare === undefined ? undefined : fewDescriptors(conversation.spare);
    seen = await Promise.race([receiveAll(conversation, conn, sender, receiver, problems), late]);
  } catch (error) {
    problems.push(String(error));
  } finally {
    clearTimeout(timer);
    sender?.stop();
    conn.close();
    if (seen) await Promise.race([sender?.done, senderTime()]);
    sender?.close();
  }
  if (before !== undefined) {
    const more = Deno.memoryUsage().external - before;
    if (more > mostExternal + conversation.limit) {
      problems.push(`${more} bytes of buffers were allocated`);
    }
  }
  if (!seen) return { end: "nothing", delivered: 0, problems };
  judge(conversation, seen, problems);
  return { end: seen.end, delivered: seen.pairs.length, problems };
}

/** Gives the sender time to notice that the connection is closed. If it does not, the count of descriptors fails. */
async function senderTime(): Promise<void> {
  for (let i = 0; i < 1000; i++) await yieldToEventLoop();
}

/** Receives as the conversation describes, and goes on after every abort. */
async function receiveAll(
  conversation: Conversation,
  conn: UnixConn,
  sender: Sender,
  receiver: Receiver,
  problems: string[],
): Promise<Received> {
  const pairs: Pair[] = [];
  const seen: Received = { plain: none, pairs, end: "ok" };
  const taken: number[] = [];
  let abort = new AbortController();
  const callback = (fd: Fd, meta: Uint8Array | null): void | Promise<void> => {
    pairs.push([offsetOf(fd.raw), meta]);
    switch (conversation.callback) {
      case "close":
        return fd.close();
      case "take":
        taken.push(fd.take());
        return;
      case "later":
        return pairs.length % 3 === 0 ? yieldToEventLoop() : Promise.resolve();
      case "throw":
        if (pairs.length === conversation.at) throw thrown;
        return;
      case "abort":
        if (pairs.length === conversation.at) abort.abort(thrown);
    }
  };
  try {
    if (conversation.plain > 0) {
      const plain = new Uint8Array(conversation.plain);
      try {
        await abortWhenStalled(
          conversation,
          sender,
          abort,
          seen,
          conn.readFull(plain, { signal: abort.signal }),
        );
        seen.plain = plain;
      } catch (error) {
        if (error === abort.signal.reason) {
          // The bytes that were read are lost with the array: the stream cannot be followed any more.
          return { ...seen, end: "aborted" };
        }
        return { ...seen, end: errorName(error) };
      }
    }
    for (;;) {
      const { signal } = abort;
      const options = { maxMetaBytes: conversation.limit, signal };
      try {
        const run = receiveOnce(conversation, conn, receiver, callback, options);
        const wasCounted = pairs.length;
        const count = await abortWhenStalled(conversation, sender, abort, seen, run);
        if (count !== undefined && count !== pairs.length - wasCounted && wasCounted === 0) {
          problems.push(`it gave a count of ${count} for ${pairs.length} deliveries`);
        }
        return seen;
      } catch (error) {
        if (signal.aborted && error === signal.reason) {
          abort = new AbortController();
          sender.resume();
          continue;
        }
        seen.end = error === thrown ? "thrown" : errorName(error);
        if (conversation.stalls.length === 0 && seen.end !== "ControlTruncatedError") {
          seen.again = await receiveAgain(conversation, conn);
        }
        return seen;
      }
    }
  } finally {
    closeAll(taken);
  }
}

async function receiveOnce(
  conversation: Conversation,
  conn: UnixConn,
  { receiveAllFrom, receiveFrom }: Receiver,
  callback: (fd: Fd, meta: Uint8Array | null) => void | Promise<void>,
  options: { maxMetaBytes: number; signal: AbortSignal },
): Promise<number | undefined> {
  switch (conversation.reading) {
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

/** Receives to the end, without aborting, on a connection that had an error. */
async function receiveAgain(
  conversation: Conversation,
  conn: UnixConn,
): Promise<Received["again"]> {
  const pairs: Pair[] = [];
  try {
    await receiveAllFrom(conn, (fd, meta) => void pairs.push([offsetOf(fd.raw), meta]), {
      maxMetaBytes: conversation.limit,
    });
    return { pairs, end: "ok" };
  } catch (error) {
    return { pairs, end: errorName(error) };
  }
}

/** The result of `run`; aborts it when the sender pauses and all that was sent is delivered. */
async function abortWhenStalled<T>(
  conversation: Conversation,
  sender: Sender,
  abort: AbortController,
  seen: Received,
  run: Promise<T>,
): Promise<T> {
  if (conversation.stalls.length === 0) return await run;
  let settled = false;
  const done = run.finally(() => settled = true);
  // Awaited below: until then a rejection must not count as unhandled.
  done.catch(() => {});
  while (!settled) {
    await yieldToEventLoop();
    if (settled || !sender.stalled) continue;
    const messages = conversation.messages.slice(0, sender.sent);
    const { pairs, ends } = expected(conversation, { messages, ended: false });
    // Where `run` has to end by itself, it is not aborted: if it hangs, the deadline fails it.
    if (ends.size > 0 || seen.pairs.length < pairs.length) continue;
    await yieldToEventLoop();
    if (!settled) abort.abort(new Error("The sender has paused"));
    break;
  }
  return await done;
}

/** The name of an error. */
export function errorName(error: unknown): string {
  return error instanceof Error ? error.name : String(error);
}

function judge(conversation: Conversation, seen: Received, problems: string[]): void {
  const { plain, pairs, ends, early } = expected(conversation);
  const { end } = seen;
  const delivered = seen.pairs.length;
  if (seen.plain.length > 0 && !equalBytes(plain, seen.plain)) {
    problems.push("the plain bytes differ");
  }
  seen.pairs.forEach((pair, i) => {
    if (i >= pairs.length) problems.push(`delivery ${i} is surplus: ${shown(pair)}`);
    else if (!samePair(pair, pairs[i])) {
      problems.push(`delivery ${i} is ${shown(pair)}, not ${shown(pairs[i])}`);
    }
  });
  if (end === "aborted") {
    if (conversation.stalls.length === 0) {
      problems.push("it ended with an abort, and nothing has aborted it");
    }
  } else if (end === "thrown") {
    if (conversation.callback !== "throw" || delivered !== conversation.at) {
      problems.push(`it ended with an error of the callback at delivery ${delivered}`);
    }
  } else if (!early.has(end) && !(ends.has(end) && delivered === pairs.length)) {
    problems.push(
      `it ended with "${end}" after ${delivered} of ${pairs.length}; right is ` +
        `${[...ends].join(" or ")}${
          early.size > 0 ? `, or any time ${[...early].join(" or ")}` : ""
        }`,
    );
  }
  if (seen.again) judgeAgain(conversation, seen, problems);
}

/**
 * After an error the connection may be at the start of a further message, whose descriptors may be
 * delivered; but never with the meta of another descriptor.
 */
function judgeAgain(conversation: Conversation, seen: Received, problems: string[]): void {
  const { pairs: more, end } = seen.again!;
  const { pairs } = expected({ ...conversation, limit: 2 ** 32, spare: undefined });
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

/** Whether two byte arrays are equal. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

function samePair([file, meta]: Pair, [otherFile, other]: Pair): boolean {
  if (file !== otherFile) return false;
  return meta === null || other === null ? meta === other : equalBytes(meta, other);
}

function shown([file, meta]: Pair): string {
  return `file ${file} with ${meta === null ? "no meta" : hexOf(meta, 40)}`;
}
