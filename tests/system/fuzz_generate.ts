/**
 * Makes conversations: a correct stream, mutations of it, and the circumstances of both sides. A
 * conversation is a function of a seed and an index.
 *
 * Pure: bytes and numbers.
 *
 * @module
 */

import type { MetaValue } from "../../lib/wire/gob.ts";
import { encode } from "../../lib/wire/gob_encode.ts";
import { Chance } from "../support/chance.ts";
import { joined, record } from "../support/raw.ts";
import {
  type Conversation,
  defaultLimit,
  fileCount,
  type Message,
  message,
  mostDescriptors,
} from "./fuzz_conversation.ts";
import { mutationNames, mutations } from "./fuzz_mutations.ts";

const gobMetas = ([
  { name: "http", port: 8000 },
  { path: "/run/app.sock", listening: true, backlog: null },
  { weight: 0.5, big: 2n ** 60n, raw: new Uint8Array([1, 2, 3]) },
  { names: ["a", "b", "c"], nested: { deep: { deeper: [1, "two", false] } } },
  {},
] as { [key: string]: MetaValue }[]).map((meta) => new Uint8Array(encode(Object.entries(meta))));

/** The conversation of this seed and index. */
export function makeConversation(seed: number, index: number): Conversation {
  const chance = new Chance(seed, index);
  const kinds: string[] = [];
  const conversation: Conversation = {
    seed,
    index,
    kinds,
    messages: correctMessages(chance),
    plain: 0,
    limit: defaultLimit,
    reading: chance.of(["all", "all", "each", "iterator"]),
    callback: chance.of(["ignore", "ignore", "ignore", "close", "take", "later"]),
    at: 0,
    stalls: [],
    pace: "before",
    ending: chance.of(["close", "close", "close", "shutdown", "reset"]),
    narrow: false,
    announces: [],
    spare: undefined,
  };
  if (chance.percent(12)) addPlain(chance, conversation);
  if (chance.percent(85)) {
    for (let left = chance.of([1, 1, 1, 2, 2, 3, 5, 8]); left > 0; left--) {
      const kind = chance.of(mutationNames);
      if (mutations[kind](chance, conversation)) kinds.push(kind);
    }
  }
  if (kinds.length === 0) kinds.push("correct");
  if (chance.percent(0.3)) flood(chance, conversation);
  if (chance.percent(0.3)) fullMessages(chance, conversation);
  addCircumstances(chance, conversation);
  return conversation;
}

/** Gives both sides special circumstances, in some of the cases. */
function addCircumstances(chance: Chance, conversation: Conversation): void {
  const { kinds } = conversation;
  const set = (kind: string, percent: number, change: () => void) => {
    if (!chance.percent(percent)) return;
    change();
    kinds.push(kind);
  };
  set("limit", 25, () => conversation.limit = chance.of([0, 1, 3, 16, 100, 4092, 65536, 1 << 21]));
  set("credentials", 8, () => conversation.announces.push("credentials"));
  set("pidfd", 4, () => conversation.announces.push("pidfd"));
  set("callback throws", 8, () => {
    conversation.callback = "throw";
    conversation.at = chance.between(1, 6);
  });
  set("pace", 6, () => conversation.pace = "during");
  set("narrow", 2, () => conversation.narrow = true);
  if (conversation.callback !== "throw") {
    set("abort", 3, () => {
      conversation.callback = "abort";
      conversation.at = chance.between(1, 6);
    });
    set("stall", 5, () => {
      const stalls = Array.from(
        { length: chance.between(1, 2) },
        () => chance.between(0, conversation.messages.length),
      );
      conversation.stalls = [...new Set(stalls)].sort((a, b) => a - b);
    });
  }
  set("out-of-band", 1, () => {
    const files = chance.percent(30) ? [chance.below(fileCount)] : [];
    const at = chance.between(0, conversation.messages.length);
    conversation.messages.splice(at, 0, { ...message(chance.bytes(1), files), urgent: true });
  });
  // The sender has to be done before: RLIMIT_NOFILE holds for the process, which runs both sides.
  if (
    conversation.pace === "before" && !conversation.narrow && conversation.announces.length === 0
  ) {
    set("few descriptors", 5, () => {
      conversation.spare = chance.of([0, 1, 2, 5, 20, 100]);
      if (conversation.callback === "take") conversation.callback = "ignore";
      conversation.stalls = [];
      // The sender would close its descriptor, and the receiver could open one more.
      conversation.ending = "shutdown";
    });
  }
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
  // Longer than a Go peer accepts.
  return new Uint8Array(chance.of([4093, 10_000, 65_532, 70_000, 140_000])).fill(7);
}

/** Adds plain bytes before the first record: in a message of their own, or in the first message. */
function addPlain(chance: Chance, conversation: Conversation): void {
  conversation.plain = chance.of([1, 3, 4, 5, 26, 300]);
  conversation.kinds.push("plain bytes");
  const bytes = chance.bytes(conversation.plain);
  if (conversation.messages.length > 0 && chance.percent(20)) {
    conversation.messages[0].bytes = joined(bytes, conversation.messages[0].bytes);
  } else {
    conversation.messages.unshift(message(bytes, []));
  }
}

/** Adds more bytes than a receiver may buffer while it waits for their descriptors. */
function flood(chance: Chance, conversation: Conversation): void {
  conversation.kinds.push("flood");
  conversation.limit = chance.of([0, 100, 4092]);
  const bytes = new Uint8Array(100_000);
  const at = chance.between(0, conversation.messages.length);
  conversation.messages.splice(
    at,
    0,
    ...Array.from({ length: chance.between(2, 5) }, () => message(bytes, [])),
  );
  if (chance.percent(50)) conversation.stalls = [conversation.messages.length];
}

/** Makes full messages, whose descriptors are sent with their first bytes, and cuts them. */
function fullMessages(chance: Chance, conversation: Conversation): void {
  conversation.kinds.push("full messages");
  const first = chance.below(fileCount);
  const count = chance.between(2, 5);
  const files = Array.from({ length: mostDescriptors }, (_, i) => (first + i) % fileCount);
  const bytes = new Uint8Array(4 * mostDescriptors);
  const whole = Array.from({ length: count }, () => bytes);
  const cut = chance.between(1, 8);
  conversation.plain = 0;
  conversation.messages = chance.percent(50)
    ? whole.flatMap((all) => [message(all.slice(0, cut), files), message(all.slice(cut), [])])
    : [
      ...whole.map((all) => message(all.slice(0, cut), files)),
      ...whole.map((all) => message(all.slice(cut), [])),
    ];
  if (chance.percent(50)) conversation.stalls = [chance.between(0, conversation.messages.length)];
}

/** Every name that `kinds` of a conversation may hold. */
export const conversationKinds: string[] = [
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
];
