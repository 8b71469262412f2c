/**
 * The sending side of a conversation: it sends what the conversation describes with sendmsg(2), right or wrong.
 *
 * @module
 */

import { setImmediate } from "node:timers";
import { c, cmsg, structs } from "../../ffi/abi.ts";
import { check, errno, errnoName, uninterrupted } from "../../ffi/errno.ts";
import { closeRaw } from "../../ffi/fd.ts";
import { addressOf, libc } from "../../ffi/libc.ts";
import { ready } from "../../lib/event_loop/reactor.ts";
import { shutdownWrite } from "../../ffi/socket_options.ts";
import { type Conversation, fileCount, type Message } from "./fuzz_conversation.ts";

const opened: number[] = [];

/**
 * The descriptors to send: the same file, opened `fileCount` times. The i-th has offset i, which all its
 * duplicates share, so that the receiver can tell which file a descriptor belongs to.
 */
export function fileDescriptors(): number[] {
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

/** MSG_OOB of <sys/socket.h>. */
const msgOob = 1;

const sendControl = new Uint8Array(4096);
const sendControlAddress = { value: 0n };

/** One sendmsg(2); gives the number of bytes that were sent, or the name of the errno. */
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

/** Lets the event loop run once. */
export function yieldToEventLoop(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Sends the messages of a conversation, until all are sent, stop() is called, or the receiver has closed. */
export class Sender {
  /** The number of messages that were sent whole. */
  sent = 0;
  /** Settles when all messages are sent and the connection is shut down or closed. */
  readonly done: Promise<void>;
  readonly #conversation: Conversation;
  #raw: number;
  #stalled: PromiseWithResolvers<void> | undefined;
  #stopped = false;

  constructor(raw: number, conversation: Conversation) {
    this.#raw = raw;
    this.#conversation = conversation;
    this.done = this.#sendAll();
  }

  /** Whether it waits until the receiver has aborted. */
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

  async #sendAll(): Promise<void> {
    const { messages, stalls, pace, ending } = this.#conversation;
    try {
      for (let i = 0; i <= messages.length && !this.#stopped; i++) {
        if (stalls.includes(i)) await this.#stall();
        if (i === messages.length) break;
        if (pace === "during") await yieldToEventLoop();
        const sending = this.#send(messages[i]);
        // No await where none is needed: then all is sent before the receiver begins.
        if (!(typeof sending === "boolean" ? sending : await sending)) return;
        this.sent++;
      }
      if (pace === "during") await yieldToEventLoop();
      if (ending === "shutdown" && !this.#stopped) {
        shutdownWrite(this.#raw);
        if (pace === "during") await yieldToEventLoop();
      }
    } finally {
      if (ending !== "shutdown" || this.#stopped) this.close();
    }
  }

  #stall(): Promise<void> {
    this.#stalled = Promise.withResolvers<void>();
    return this.#stalled.promise;
  }

  /** Sends one message; false when the receiver has closed, or when stopped. */
  #send(message: Message): boolean | Promise<boolean> {
    let rest = message.bytes;
    let next = message;
    while (!this.#stopped) {
      const sent = sendMessage(this.#raw, rest, next);
      if (sent === "EAGAIN") return this.#sendLater({ ...next, bytes: rest });
      if (sent === "EPIPE" || sent === "ECONNRESET") return false;
      if (typeof sent === "string") {
        throw new Error(`The fuzzer cannot send: sendmsg(2) gave ${sent}`);
      }
      if (sent >= rest.length) return true;
      rest = rest.slice(sent);
      next = { ...message, files: [] };
    }
    return false;
  }

  async #sendLater(message: Message): Promise<boolean> {
    // A receiver that does not read any more closes soon, which makes the socket writable, too.
    await ready(this.#raw, "writable");
    return await this.#send(message);
  }

  close(): void {
    if (this.#raw >= 0) closeRaw(this.#raw);
    this.#raw = -1;
  }
}
