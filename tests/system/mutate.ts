/**
 * What the fuzzer does to a receiver and to the gob decoder: correct streams, what is done to them,
 * and the chance that decides; all of it a function of a seed and an index.
 *
 * Pure: bytes and numbers.
 *
 * @module
 */

import { encode, type MetaValue } from "../../lib/wire/gob.ts";
import { joined, record } from "../support/raw.ts";

/** Numbers that are the same whenever the seed and the index are. */
export class Chance {
  #state: number;

  constructor(seed: number, index: number) {
    // Both steps are one to one, so the conversations of one seed all begin elsewhere.
    this.#state = scattered(scattered(seed >>> 0) ^ index) || 1;
  }

  /** An integer from 0 up to, and without, `n`. */
  below(n: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return Math.floor((scattered(x) / 2 ** 32) * n);
  }

  /** An integer from `least` to `most`. */
  between(least: number, most: number): number {
    return least + this.below(most - least + 1);
  }

  /** True in `percent` of the cases. */
  percent(percent: number): boolean {
    return this.below(1000) < percent * 10;
  }

  /** One of `list`. */
  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)];
  }

  /** So many bytes of any value. */
  bytes(length: number): Uint8Array<ArrayBuffer> {
    return Uint8Array.from({ length }, () => this.below(256));
  }
}

/** A 32-bit number in which every bit depends on every bit of `n`; no two give the same. */
function scattered(n: number): number {
  n = Math.imul(n ^ n >>> 16, 0x21f0aaad);
  n = Math.imul(n ^ n >>> 15, 0x735a2d97);
  return (n ^ n >>> 15) >>> 0;
}

/** What one sendmsg sends. */
export interface Message {
  bytes: Uint8Array<ArrayBuffer>;
  /** The numbers of the files whose descriptors go with it. */
  files: number[];
  /** In how many SCM_RIGHTS the descriptors go; the kernel makes one of them. */
  parts: number;
  /** Whether an SCM_CREDENTIALS goes in front. */
  credentials: boolean;
  /** Whether it is out-of-band data: who does not ask for that never sees it. */
  urgent: boolean;
}

/** One sender, one receiver, and all that they do. */
export interface Conversation {
  seed: number;
  index: number;
  /** What was done to a correct stream, and what is special about the two. */
  kinds: string[];
  messages: Message[];
  /** Bytes in front of the first record, which the receiver knows of. */
  plain: number;
  /** The receiver's `maxMetaBytes`. */
  limit: number;
  reading: "all" | "each" | "iterator";
  /** What becomes of a descriptor: nothing, close, take, the same later; or the callback throws. */
  callback: "leave" | "close" | "take" | "later" | "throw" | "abort";
  /** At which delivery it throws, or aborts. */
  at: number;
  /** After how many messages the sender stops, until the receiver is tired of waiting. */
  stalls: number[];
  /** Whether the receiver begins after all was sent, or waits for each message. */
  pace: "before" | "during";
  /** How the sender leaves; "reset" is with something unread. */
  ending: "close" | "shutdown" | "reset";
  /** Whether the sender's buffer is the smallest possible, which splits messages. */
  narrow: boolean;
  /** What the receiver's socket is set to announce. */
  announces: ("credentials" | "pidfd")[];
  /** How many numbers of descriptors are left to the receiver; undefined for plenty. */
  spare: number | undefined;
}

/** How many files there are to send; more than two full messages hold. */
export const fileCount = 509;

const mostDescriptors = 253;
const defaultLimit = 1 << 20;

const gobMetas = ([
  { name: "http", port: 8000 },
  { path: "/run/app.sock", listening: true, backlog: null },
  { weight: 0.5, big: 2n ** 60n, raw: new Uint8Array([1, 2, 3]) },
  { names: ["a", "b", "c"], nested: { deep: { deeper: [1, "two", false] } } },
  {},
] as { [key: string]: MetaValue }[]).map((meta) => new Uint8Array(encode(Object.entries(meta))));

/** The conversation with this number. */
export function conversation(seed: number, index: number): Conversation {
  const chance = new Chance(seed, index);
  const kinds: string[] = [];
  const talk: Conversation = {
    seed,
    index,
    kinds,
    messages: correctMessages(chance),
    plain: 0,
    limit: defaultLimit,
    reading: chance.of(["all", "all", "each", "iterator"]),
    callback: chance.of(["leave", "leave", "leave", "close", "take", "later"]),
    at: 0,
    stalls: [],
    pace: "before",
    ending: chance.of(["close", "close", "close", "shutdown", "reset"]),
    narrow: false,
    announces: [],
    spare: undefined,
  };
  if (chance.percent(12)) addPlain(chance, talk);
  if (chance.percent(85)) {
    for (let left = chance.of([1, 1, 1, 2, 2, 3, 5, 8]); left > 0; left--) {
      const kind = chance.of(mutationNames);
      if (mutations[kind](chance, talk)) kinds.push(kind);
    }
  }
  if (kinds.length === 0) kinds.push("correct");
  if (chance.percent(0.3)) flood(chance, talk);
  if (chance.percent(0.3)) fullMessages(chance, talk);
  surround(chance, talk);
  return talk;
}

/** What is special about the two who talk. */
function surround(chance: Chance, talk: Conversation): void {
  const { kinds } = talk;
  const set = (kind: string, percent: number, change: () => void) => {
    if (!chance.percent(percent)) return;
    change();
    kinds.push(kind);
  };
  set("limit", 25, () => talk.limit = chance.of([0, 1, 3, 16, 100, 4092, 65536, 1 << 21]));
  set("credentials", 8, () => talk.announces.push("credentials"));
  set("pidfd", 4, () => talk.announces.push("pidfd"));
  set("callback throws", 8, () => {
    talk.callback = "throw";
    talk.at = chance.between(1, 6);
  });
  set("pace", 6, () => talk.pace = "during");
  set("narrow", 2, () => talk.narrow = true);
  if (talk.callback !== "throw") {
    set("abort", 3, () => {
      talk.callback = "abort";
      talk.at = chance.between(1, 6);
    });
    set("stall", 5, () => {
      const stalls = Array.from(
        { length: chance.between(1, 2) },
        () => chance.between(0, talk.messages.length),
      );
      talk.stalls = [...new Set(stalls)].sort((a, b) => a - b);
    });
  }
  set("out-of-band", 1, () => {
    const files = chance.percent(30) ? [chance.below(fileCount)] : [];
    const at = chance.between(0, talk.messages.length);
    talk.messages.splice(at, 0, { ...message(chance.bytes(1), files), urgent: true });
  });
  // Only what is sent by then does not need numbers of its own.
  if (talk.pace === "before" && !talk.narrow && talk.announces.length === 0) {
    set("few descriptors", 5, () => {
      talk.spare = chance.of([0, 1, 2, 5, 20, 100]);
      if (talk.callback === "take") talk.callback = "leave";
      talk.stalls = [];
      // The sender's own number would be one more.
      talk.ending = "shutdown";
    });
  }
}

function message(bytes: Uint8Array<ArrayBuffer>, files: number[]): Message {
  return { bytes, files, parts: 1, credentials: false, urgent: false };
}

/** Messages as a correct sender sends them. */
function correctMessages(chance: Chance): Message[] {
  let file = chance.below(fileCount);
  return Array.from({ length: chance.of([0, 1, 1, 2, 2, 2, 3, 3, 4, 6]) }, () => {
    const records: Uint8Array[] = [];
    const files: number[] = [];
    const most = batchSize(chance);
    let length = 0;
    while (files.length < most) {
      const meta = correctMeta(chance);
      if (length > 0 && length + 4 + meta.length > 4096) break;
      length += 4 + meta.length;
      records.push(record(meta));
      files.push(file++ % fileCount);
    }
    return message(joined(...records), files);
  });
}

function batchSize(chance: Chance): number {
  const size = chance.below(100);
  if (size < 70) return chance.between(1, 4);
  if (size < 92) return chance.between(5, 16);
  if (size < 98) return chance.between(17, 80);
  return chance.of([169, 170, 252, 253]);
}

function correctMeta(chance: Chance): Uint8Array {
  const size = chance.below(1000);
  if (size < 350) return new Uint8Array();
  if (size < 650) return chance.bytes(chance.between(1, 12));
  if (size < 950) return chance.of(gobMetas);
  if (size < 985) return new Uint8Array(chance.between(100, 2000)).fill(chance.below(256));
  if (size < 998) return new Uint8Array(chance.of([4091, 4092])).fill(chance.below(256));
  // More than a Go peer would take.
  return new Uint8Array(chance.of([4093, 10_000, 65_532, 70_000, 140_000])).fill(7);
}

/** Bytes that are not records, in front, in messages of their own or glued to the first. */
function addPlain(chance: Chance, talk: Conversation): void {
  talk.plain = chance.of([1, 3, 4, 5, 26, 300]);
  talk.kinds.push("plain bytes");
  const bytes = chance.bytes(talk.plain);
  if (talk.messages.length > 0 && chance.percent(20)) {
    talk.messages[0].bytes = joined(bytes, talk.messages[0].bytes);
  } else {
    talk.messages.unshift(message(bytes, []));
  }
}

/** More bytes than a receiver may keep that waits for their descriptors. */
function flood(chance: Chance, talk: Conversation): void {
  talk.kinds.push("flood");
  talk.limit = chance.of([0, 100, 4092]);
  const bytes = new Uint8Array(100_000);
  const at = chance.between(0, talk.messages.length);
  talk.messages.splice(
    at,
    0,
    ...Array.from({ length: chance.between(2, 5) }, () => message(bytes, [])),
  );
  if (chance.percent(50)) talk.stalls = [talk.messages.length];
}

/** Full messages whose descriptors come with their first bytes, and then more or all of the rest. */
function fullMessages(chance: Chance, talk: Conversation): void {
  talk.kinds.push("full messages");
  const first = chance.below(fileCount);
  const count = chance.between(2, 5);
  const files = Array.from({ length: mostDescriptors }, (_, i) => (first + i) % fileCount);
  const bytes = new Uint8Array(4 * mostDescriptors);
  const whole = Array.from({ length: count }, () => bytes);
  const cut = chance.between(1, 8);
  talk.plain = 0;
  talk.messages = chance.percent(50)
    ? whole.flatMap((all) => [message(all.slice(0, cut), files), message(all.slice(cut), [])])
    : [
      ...whole.map((all) => message(all.slice(0, cut), files)),
      ...whole.map((all) => message(all.slice(cut), [])),
    ];
  if (chance.percent(50)) talk.stalls = [chance.between(0, talk.messages.length)];
}

/** Lengths at which receivers of records have been known to err. */
function strangeLength(chance: Chance, talk: Conversation): number {
  return chance.of([
    0,
    1,
    4,
    talk.limit,
    talk.limit + 1,
    0xffff,
    0x1_0000,
    defaultLimit,
    defaultLimit + 1,
    2 ** 31 - 1,
    2 ** 31,
    2 ** 32 - 4,
    2 ** 32 - 1,
    chance.below(2 ** 32),
    chance.below(300),
  ]);
}

/** Gives whether there was something to change. */
type Mutation = (chance: Chance, talk: Conversation) => boolean;

function oneOf(chance: Chance, messages: Message[]): Message | undefined {
  return messages.length === 0 ? undefined : chance.of(messages);
}

/** What changes the bytes of one message. */
function onBytes(
  change: (
    chance: Chance,
    bytes: Uint8Array<ArrayBuffer>,
    talk: Conversation,
  ) => Uint8Array<ArrayBuffer>,
): Mutation {
  return (chance, talk) => {
    const target = oneOf(chance, talk.messages);
    if (!target || target.bytes.length === 0) return false;
    target.bytes = change(chance, target.bytes.slice(), talk);
    return true;
  };
}

/** What changes the files of one message. */
function onFiles(change: (chance: Chance, files: number[], talk: Conversation) => void): Mutation {
  return (chance, talk) => {
    const target = oneOf(chance, talk.messages.filter(({ files }) => files.length > 0));
    if (!target) return false;
    target.files = target.files.slice();
    change(chance, target.files, talk);
    target.files.length = Math.min(target.files.length, mostDescriptors);
    return true;
  };
}

/** What changes two messages that follow each other, or puts others in their place. */
function onNeighbours(
  change: (chance: Chance, first: Message, second: Message) => Message[],
): Mutation {
  return (chance, { messages }) => {
    if (messages.length < 2) return false;
    const at = chance.below(messages.length - 1);
    messages.splice(at, 2, ...change(chance, messages[at], messages[at + 1]));
    return true;
  };
}

const mutations: Record<string, Mutation> = {
  "cut": (chance, { messages }) => {
    const target = oneOf(chance, messages);
    if (!target || target.bytes.length < 2) return false;
    const at = chance.percent(50)
      ? chance.between(1, Math.min(8, target.bytes.length - 1))
      : chance.between(1, target.bytes.length - 1);
    // As the kernel does it, with all descriptors first; or with any part of them.
    const first = chance.of([
      target.files.length,
      target.files.length,
      0,
      chance.between(0, target.files.length),
    ]);
    messages.splice(
      messages.indexOf(target),
      1,
      { ...target, bytes: target.bytes.slice(0, at), files: target.files.slice(0, first) },
      message(target.bytes.slice(at), target.files.slice(first)),
    );
    return true;
  },
  "cut to single bytes": (chance, { messages }) => {
    const target = oneOf(chance, messages);
    if (!target || target.bytes.length < 2 || target.bytes.length > 60) return false;
    const parts = Array.from(
      target.bytes,
      (byte, i) => message(Uint8Array.of(byte), i === 0 ? target.files : []),
    );
    messages.splice(messages.indexOf(target), 1, ...parts);
    return true;
  },
  "glue": onNeighbours((_chance, first, second) => {
    if (first.files.length + second.files.length > mostDescriptors) return [first, second];
    return [message(joined(first.bytes, second.bytes), [...first.files, ...second.files])];
  }),
  "glue in front": onNeighbours((chance, first, second) => {
    const at = chance.between(0, second.bytes.length);
    return [
      { ...first, bytes: joined(first.bytes, second.bytes.slice(0, at)) },
      { ...second, bytes: second.bytes.slice(at) },
    ];
  }),
  "part of the first to the second": onNeighbours((chance, first, second) => {
    const at = chance.between(0, first.bytes.length);
    return [
      { ...first, bytes: first.bytes.slice(0, at) },
      { ...second, bytes: joined(first.bytes.slice(at), second.bytes) },
    ];
  }),
  "descriptors to the neighbour": onNeighbours((chance, first, second) => {
    const all = [...first.files, ...second.files];
    const at = chance.between(
      Math.max(0, all.length - mostDescriptors),
      Math.min(all.length, mostDescriptors),
    );
    return [{ ...first, files: all.slice(0, at) }, { ...second, files: all.slice(at) }];
  }),
  "swap messages": onNeighbours((_chance, first, second) => [second, first]),
  "repeat a message": (chance, { messages }) => {
    const target = oneOf(chance, messages);
    if (!target) return false;
    messages.splice(chance.between(0, messages.length), 0, { ...target });
    return true;
  },
  "leave out a message": (chance, { messages }) => {
    if (messages.length === 0) return false;
    messages.splice(chance.below(messages.length), 1);
    return true;
  },
  "end early": (chance, { messages }) => {
    const target = oneOf(chance, messages);
    if (!target || target.bytes.length === 0) return false;
    target.bytes = target.bytes.slice(0, chance.below(target.bytes.length));
    messages.length = messages.indexOf(target) + 1;
    return true;
  },
  "flip a bit": onBytes((chance, bytes) => {
    bytes[chance.below(bytes.length)] ^= 1 << chance.below(8);
    return bytes;
  }),
  "another byte": onBytes((chance, bytes) => {
    bytes[chance.below(bytes.length)] = chance.of([0, 1, 4, 127, 128, 255]);
    return bytes;
  }),
  "delete bytes": onBytes((chance, bytes) => {
    const at = chance.below(bytes.length);
    return joined(bytes.slice(0, at), bytes.slice(at + chance.of([1, 1, 2, 4, 4, 9, 50])));
  }),
  "insert bytes": onBytes((chance, bytes) => {
    const at = chance.between(0, bytes.length);
    const more = chance.bytes(chance.of([1, 1, 2, 4, 4, 9, 50]));
    return joined(bytes.slice(0, at), more, bytes.slice(at));
  }),
  "repeat bytes": onBytes((chance, bytes) => {
    const at = chance.below(bytes.length);
    const end = Math.min(bytes.length, at + chance.of([1, 4, 4, 8, 30]));
    return joined(bytes.slice(0, end), bytes.slice(at));
  }),
  "swap bytes": onBytes((chance, bytes) => {
    const [a, b, c] = Array.from({ length: 3 }, () => chance.between(0, bytes.length))
      .sort((x, y) => x - y);
    return joined(bytes.slice(0, a), bytes.slice(b, c), bytes.slice(a, b), bytes.slice(c));
  }),
  "garbage": onBytes((chance) => chance.bytes(chance.of([1, 4, 20, 300]))),
  "strange length": onBytes((chance, bytes, talk) => {
    // Where a header is, mostly.
    const headers = [0];
    const view = new DataView(bytes.buffer);
    for (let at = 0; at + 4 <= bytes.length; at += 4 + view.getUint32(at, true)) headers.push(at);
    const at = chance.percent(90) ? chance.of(headers) : chance.below(bytes.length);
    if (at + 4 <= bytes.length) view.setUint32(at, strangeLength(chance, talk), true);
    return bytes;
  }),
  "too few descriptors": onFiles((chance, files) => {
    files.splice(chance.below(files.length), chance.of([1, 1, 2, files.length]));
  }),
  "too many descriptors": onFiles((chance, files) => {
    const more = chance.of([1, 1, 2, 5, mostDescriptors]);
    const first = chance.below(fileCount);
    const others = Array.from({ length: more }, (_, i) => (first + i) % fileCount);
    files.splice(chance.between(0, files.length), 0, ...others);
  }),
  "one descriptor twice": onFiles((chance, files) => {
    files.splice(chance.between(0, files.length), 0, chance.of(files));
  }),
  "swap descriptors": onFiles((chance, files) => {
    const [a, b] = [chance.below(files.length), chance.below(files.length)];
    [files[a], files[b]] = [files[b], files[a]];
  }),
  "descriptors ahead": (chance, { messages }) => {
    const first = chance.below(fileCount);
    const count = chance.of([1, 2, 253]);
    const many = Array.from({ length: count }, (_, i) => (first + i) % fileCount);
    const times = count === 253 ? chance.between(1, 4) : 1;
    const more = Array.from({ length: times }, () => message(Uint8Array.of(0), many));
    messages.splice(chance.between(0, messages.length), 0, ...more);
    return true;
  },
  "descriptors without bytes": (chance, { messages }) => {
    const nothing = message(new Uint8Array(), [chance.below(fileCount)]);
    messages.splice(chance.between(0, messages.length), 0, nothing);
    return true;
  },
  "bytes without descriptors": (chance, { messages }) => {
    const bytes = chance.percent(50) ? record(chance.bytes(chance.below(9))) : chance.bytes(4);
    messages.splice(chance.between(0, messages.length), 0, message(bytes, []));
    return true;
  },
  "several SCM_RIGHTS": (chance, { messages }) => {
    const target = oneOf(chance, messages);
    if (!target) return false;
    target.parts = chance.between(2, 5);
    return true;
  },
  "SCM_CREDENTIALS": (chance, { messages }) => {
    const target = oneOf(chance, messages);
    if (!target) return false;
    target.credentials = true;
    return true;
  },
};

const mutationNames = Object.keys(mutations);

/** A conversation in words, enough to do it by hand. */
export function described(talk: Conversation): string {
  const { messages, kinds, seed, index, ...others } = talk;
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

// The gob decoder.

/** Bytes that are a gob, or were one. */
export interface GobCase {
  kinds: string[];
  bytes: Uint8Array<ArrayBuffer>;
  /** What it is the encoding of, where that is known. */
  value?: { [key: string]: MetaValue };
}

/** The gob with this number, made of `seeds`, which are correct ones, or of one of its own. */
export function gobCase(seed: number, index: number, seeds: readonly Uint8Array[]): GobCase {
  // Another stream of chance than that of the conversation with this number.
  const chance = new Chance(~seed, index);
  const kinds: string[] = [];
  const value = chance.percent(30) ? anyObject(chance, 0) : undefined;
  let bytes = new Uint8Array(value ? encode(Object.entries(value)) : chance.of(seeds));
  for (let left = chance.of([0, 1, 1, 1, 2, 2, 3, 4, 6]); left > 0 && bytes.length > 0; left--) {
    const kind = chance.of(gobMutationNames);
    kinds.push(kind);
    bytes = gobMutations[kind](chance, bytes, seeds);
  }
  return kinds.length > 0 ? { kinds, bytes } : { kinds: ["gob correct"], bytes, value };
}

/** Lists in lists, deeper than the encoder goes. */
function deepGob(depth: number): Uint8Array<ArrayBuffer> {
  const whole = encode(Object.entries({ a: [1] }));
  const name = new TextEncoder().encode("[]interface {}");
  // The definitions come first, each with its length; then type 65 and a map of one.
  const definitions = whole.slice(0, 1 + whole[0] + 1 + whole[1 + whole[0]]);
  const head = [0xff, 0x82, 0, 1, 1, "a".charCodeAt(0)];
  const list = [name.length, ...name, 0xff, 0x84, 1, 0, 1];
  const value = Uint8Array.from([...head, ...Array(depth).fill(list).flat(), 0]);
  const length = new Uint8Array(5);
  length[0] = 256 - 4;
  new DataView(length.buffer).setUint32(1, value.length);
  return joined(definitions, length, value);
}

type GobMutation = (
  chance: Chance,
  bytes: Uint8Array<ArrayBuffer>,
  seeds: readonly Uint8Array[],
) => Uint8Array<ArrayBuffer>;

const gobMutations: Record<string, GobMutation> = {
  "gob bit": (chance, bytes) => {
    bytes[chance.below(bytes.length)] ^= 1 << chance.below(8);
    return bytes;
  },
  "gob byte": (chance, bytes) => {
    bytes[chance.below(bytes.length)] = chance.of([0, 1, 2, 63, 64, 127, 128, 247, 248, 254, 255]);
    return bytes;
  },
  "gob length": (chance, bytes) => {
    const at = chance.below(bytes.length);
    const size = chance.between(1, 8);
    const length = Uint8Array.of(256 - size, ...chance.bytes(size));
    if (chance.percent(50)) length.fill(255, 1);
    return joined(bytes.slice(0, at), length, bytes.slice(at + 1));
  },
  "gob cut": (chance, bytes) => bytes.slice(0, chance.below(bytes.length)),
  "gob delete": (chance, bytes) => {
    const at = chance.below(bytes.length);
    return joined(bytes.slice(0, at), bytes.slice(at + chance.between(1, 8)));
  },
  "gob insert": (chance, bytes) => {
    const at = chance.between(0, bytes.length);
    return joined(bytes.slice(0, at), chance.bytes(chance.between(1, 8)), bytes.slice(at));
  },
  "gob repeat": (chance, bytes) => {
    const at = chance.below(bytes.length);
    const end = Math.min(bytes.length, at + chance.between(1, 64));
    return joined(bytes.slice(0, end), bytes.slice(at));
  },
  "gob depth": (chance) => deepGob(chance.of([98, 99, 100, 101, 102, 3000])),
  "gob splice": (chance, bytes, seeds) => {
    const other = chance.of(seeds);
    return joined(
      bytes.slice(0, chance.between(0, bytes.length)),
      other.slice(chance.between(0, other.length)),
    );
  },
};

const gobMutationNames = Object.keys(gobMutations);

/** Every name that `kinds` of a conversation, or of a gob, may hold. */
export const allKinds: string[] = [
  ...mutationNames,
  "correct",
  "plain bytes",
  "flood",
  "full messages",
  "limit",
  "credentials",
  "pidfd",
  "callback throws",
  "pace",
  "narrow",
  "abort",
  "stall",
  "out-of-band",
  "few descriptors",
  "gob correct",
  ...gobMutationNames,
];

function anyObject(chance: Chance, depth: number): { [key: string]: MetaValue } {
  const entries = Array.from(
    { length: chance.between(0, 4) },
    (_, i) => [chance.of(["name", "", "1", "__proto__", `k${i}`]), anyValue(chance, depth + 1)],
  );
  return Object.fromEntries(entries);
}

function anyValue(chance: Chance, depth: number): MetaValue {
  const kind = chance.below(depth > 4 ? 9 : 12);
  switch (kind) {
    case 0:
      return null;
    case 1:
      return chance.percent(50);
    case 2:
      return chance.of([0, -0, 1, -1, 63, 64, -64, -65, 2 ** 53, -(2 ** 63), 2 ** 63, 1e300]);
    case 3:
      return chance.of([0.5, NaN, Infinity, -Infinity, 5e-324, 1.7e308]);
    case 4:
      return BigInt.asIntN(64, BigInt(chance.below(2 ** 32)) << BigInt(chance.below(40)));
    case 5:
      return 2n ** 64n - 1n - BigInt(chance.below(2 ** 32));
    case 6:
      return chance.of(["", "a", "\u0142\u{1f48e}", "\0", "\ud800", "long ".repeat(40)]);
    case 7:
      return chance.bytes(chance.between(0, 20));
    case 8:
      return Array.from({ length: chance.between(0, 5) }, (_, i) => `item ${i}`);
    case 9:
    case 10:
      return Array.from({ length: chance.between(0, 4) }, () => anyValue(chance, depth + 1));
    default:
      return anyObject(chance, depth);
  }
}
