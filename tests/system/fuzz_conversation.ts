/**
 * What a conversation of the fuzzer consists of: messages of a sender, and how both sides behave.
 *
 * @module
 */

/** What one sendmsg(2) sends. */
export interface Message {
  bytes: Uint8Array<ArrayBuffer>;
  /** The descriptors that are sent with it, by the numbers of their files. */
  files: number[];
  /** The number of SCM_RIGHTS that the descriptors are sent in; the kernel joins them. */
  parts: number;
  /** Whether an SCM_CREDENTIALS precedes them. */
  credentials: boolean;
  /** Whether it is out-of-band data (MSG_OOB), which a plain recvmsg(2) does not receive. */
  urgent: boolean;
}

/** One sender, one receiver, and how both behave. */
export interface Conversation {
  seed: number;
  index: number;
  /** The mutations of a correct stream, and the special circumstances. */
  kinds: string[];
  messages: Message[];
  /** The number of plain bytes before the first record; the receiver reads them first. */
  plain: number;
  /** The receiver's `maxMetaBytes`. */
  limit: number;
  reading: "all" | "each" | "iterator";
  /** What the callback does with a descriptor: nothing, close() or take(), or nothing after a while; or it throws, or aborts. */
  callback: "ignore" | "close" | "take" | "later" | "throw" | "abort";
  /** The delivery at which the callback throws, or aborts. */
  at: number;
  /** The numbers of messages after which the sender pauses, until the receiver has aborted. */
  stalls: number[];
  /** Whether all is sent before the receiver begins, or message by message while it receives. */
  pace: "before" | "during";
  /** How the sender ends the connection; "reset": it closes with bytes that it has not read. */
  ending: "close" | "shutdown" | "reset";
  /** Whether the sender's buffer is the smallest possible, which splits messages. */
  narrow: boolean;
  /** The socket options of the receiver that add control messages: SO_PASSCRED, SO_PASSPIDFD. */
  announces: ("credentials" | "pidfd")[];
  /** How many descriptors the receiver may open (RLIMIT_NOFILE); undefined for plenty. */
  spare: number | undefined;
}

/** The number of files to send: more than the descriptors of two full messages. */
export const fileCount = 509;

/** The kernel takes so many descriptors in one message (net/scm.h, SCM_MAX_FD). */
export const mostDescriptors = 253;
/** The default of `maxMetaBytes`. */
export const defaultLimit = 1 << 20;

/** A message without anything special. */
export function message(bytes: Uint8Array<ArrayBuffer>, files: number[]): Message {
  return { bytes, files, parts: 1, credentials: false, urgent: false };
}

/** A conversation in words, enough to repeat it by hand. */
export function describe(conversation: Conversation): string {
  const { messages, kinds, seed, index, ...others } = conversation;
  const lines = messages.map(({ bytes, files, parts, credentials, urgent }, i) => {
    const words = [`${bytes.length} bytes ${hexOf(bytes)}`, `files [${files}]`];
    if (parts > 1) words.push(`in ${parts} SCM_RIGHTS`);
    if (credentials) words.push("with SCM_CREDENTIALS");
    if (urgent) words.push("out of band");
    return `  ${i}: ${words.join(", ")}`;
  });
  return [
    `seed ${seed}, conversation ${index}: ${kinds.join(", ")}`,
    `  ${JSON.stringify(others)}`,
    ...lines,
  ].join("\n");
}

/** The first bytes in hexadecimal. */
export function hexOf(bytes: Uint8Array, most = 200): string {
  const hex = Array.from(bytes.subarray(0, most), (byte) => byte.toString(16).padStart(2, "0"));
  return hex.join("") + (bytes.length > most ? "..." : "");
}
