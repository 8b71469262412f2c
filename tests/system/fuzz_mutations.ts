/**
 * Mutations: what the fuzzer changes in a correct stream of messages.
 *
 * Pure: bytes and numbers.
 *
 * @module
 */

import type { Chance } from "../support/chance.ts";
import { joined, record } from "../support/raw.ts";
import {
  type Conversation,
  defaultLimit,
  fileCount,
  type Message,
  message,
  mostDescriptors,
} from "./fuzz_conversation.ts";

/** A length at or beyond a limit of receivers. */
function strangeLength(chance: Chance, conversation: Conversation): number {
  return chance.of([
    0,
    1,
    4,
    conversation.limit,
    conversation.limit + 1,
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

/** Changes a conversation; false when it has nothing to change. */
export type Mutation = (chance: Chance, conversation: Conversation) => boolean;

function oneOf(chance: Chance, messages: Message[]): Message | undefined {
  return messages.length === 0 ? undefined : chance.of(messages);
}

/** A mutation of the bytes of one message. */
function onBytes(
  change: (
    chance: Chance,
    bytes: Uint8Array<ArrayBuffer>,
    conversation: Conversation,
  ) => Uint8Array<ArrayBuffer>,
): Mutation {
  return (chance, conversation) => {
    const target = oneOf(chance, conversation.messages);
    if (!target || target.bytes.length === 0) return false;
    target.bytes = change(chance, target.bytes.slice(), conversation);
    return true;
  };
}

/** A mutation of the descriptors of one message. */
function onFiles(
  change: (chance: Chance, files: number[], conversation: Conversation) => void,
): Mutation {
  return (chance, conversation) => {
    const target = oneOf(chance, conversation.messages.filter(({ files }) => files.length > 0));
    if (!target) return false;
    target.files = target.files.slice();
    change(chance, target.files, conversation);
    target.files.length = Math.min(target.files.length, mostDescriptors);
    return true;
  };
}

/** A mutation that replaces two consecutive messages by others. */
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

/** All mutations, by name. */
export const mutations: Record<string, Mutation> = {
  "cut": (chance, { messages }) => {
    const target = oneOf(chance, messages);
    if (!target || target.bytes.length < 2) return false;
    const at = chance.percent(50)
      ? chance.between(1, Math.min(8, target.bytes.length - 1))
      : chance.between(1, target.bytes.length - 1);
    // All descriptors with the first part, as the kernel does it; or any number of them.
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
  "strange length": onBytes((chance, bytes, conversation) => {
    // Mostly in the place of a header.
    const headers = [0];
    const view = new DataView(bytes.buffer);
    for (let at = 0; at + 4 <= bytes.length; at += 4 + view.getUint32(at, true)) headers.push(at);
    const at = chance.percent(90) ? chance.of(headers) : chance.below(bytes.length);
    if (at + 4 <= bytes.length) view.setUint32(at, strangeLength(chance, conversation), true);
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

/** The names of the mutations. */
export const mutationNames = Object.keys(mutations);
