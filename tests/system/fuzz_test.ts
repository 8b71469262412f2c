/**
 * A short run of the fuzzer, and proof that it would notice.
 *
 * @module
 */

import { assert, assertEquals, assertNotEquals, assertStringIncludes } from "@std/assert";
import { closeAll, dup } from "../../ffi/fd.ts";
import {
  ControlTruncatedError,
  Meta,
  receiveAllFrom,
  type ReceiveCallback,
  receiveFrom,
  type ReceiveOptions,
  type UnixConn,
} from "../../mod.ts";
import { Child } from "../support/child.ts";
import { converse, decodeGob, type Receiver, runBatch, warmUp } from "./converse.ts";
import {
  allKinds,
  Chance,
  type Conversation,
  conversation,
  gobCase,
  type Message,
} from "./mutate.ts";
import { expected } from "./oracle.ts";
import { record } from "../support/raw.ts";
import { test } from "../support/guard.ts";

// The files that are sent about stay open: before any count.
await warmUp();

const seed = 20;

/** A conversation by hand: messages of these bytes with descriptors of these files. */
function talk(
  messages: [bytes: Uint8Array<ArrayBuffer>, ...files: number[]][],
  others: Partial<Conversation> = {},
): Conversation {
  return {
    seed: 0,
    index: 0,
    kinds: ["by hand"],
    messages: messages.map(([bytes, ...files]): Message => ({
      bytes,
      files,
      parts: 1,
      credentials: false,
      urgent: false,
    })),
    plain: 0,
    limit: 1 << 20,
    reading: "all",
    callback: "leave",
    at: 0,
    stalls: [],
    pace: "before",
    ending: "close",
    narrow: false,
    announces: [],
    spare: undefined,
    ...others,
  };
}

/** A receiver that does something else with what is delivered to its callback. */
function withCallback(change: (callback: ReceiveCallback) => ReceiveCallback): Receiver {
  function all(
    conn: UnixConn,
    callback?: ReceiveCallback | ReceiveOptions,
    options?: ReceiveOptions,
    // deno-lint-ignore no-explicit-any -- either of two, as the caller wants it
  ): any {
    return typeof callback === "function"
      ? receiveAllFrom(conn, change(callback), options)
      : receiveAllFrom(conn, callback);
  }
  return {
    receiveAllFrom: all,
    receiveFrom: (conn, callback, options) => receiveFrom(conn, change(callback), options),
  };
}

/** What is wrong with a conversation at a receiver. */
async function problems(talk: Conversation, receiver?: Receiver): Promise<string> {
  return (await converse(talk, receiver)).problems.join("\n");
}

// What is sent.

test("a conversation and a gob are functions of their seed and number", () => {
  const gobs = [new Meta({ a: 1 }).encode(), new Meta({ b: "two" }).encode()];
  for (let index = 0; index < 300; index++) {
    const first = conversation(seed, index);
    conversation(seed, index + 1);
    assertEquals(conversation(seed, index), first);
    assertEquals(gobCase(seed, index, gobs), gobCase(seed, index, gobs));
    assertNotEquals({ ...conversation(seed, index + 1), index }, first);
    assertNotEquals({ ...conversation(seed + 1, index), seed }, first);
  }
});

test("making a gob leaves the bytes as they are that it is made of", () => {
  const gobs = [new Meta({ a: 1 }).encode()];
  const before = gobs[0].slice();
  for (let index = 0; index < 500; index++) gobCase(seed, index, gobs);
  assertEquals(gobs[0], before);
});

test("no two numbers of one seed begin with the same chance, and all of it is used", () => {
  const firsts = new Set<number>();
  const values = new Set<number>();
  for (let index = 0; index < 5000; index++) {
    const chance = new Chance(seed, index);
    firsts.add(chance.below(2 ** 32));
    values.add(chance.between(3, 9));
  }
  assert(firsts.size >= 4999);
  assertEquals([...values].sort(), [3, 4, 5, 6, 7, 8, 9]);
});

// What must come of it.

test("the truth table of the protocol", () => {
  const ends = (...messages: Parameters<typeof talk>[0]) => [...expected(talk(messages)).ends];
  const a = record("a");
  assertEquals(ends(), ["ok"]);
  assertEquals(ends([a, 1]), ["ok"]);
  assertEquals(ends([a.slice(0, 2), 1], [a.slice(2)]), ["ok"]);
  assertEquals(ends([a]), ["EmptyControlMessageError"]);
  assertEquals(ends([a, 1, 2]), ["SurplusDescriptorsError"]);
  assertEquals(ends([a.slice(0, 3), 1]), ["UnexpectedEofError"]);
  assertEquals(ends([a.slice(0, 4), 1]), ["UnexpectedEofError"]);
  assertEquals(ends([Uint8Array.of(255, 255, 255, 255), 1]), ["LongReadError"]);
  assertEquals(ends([new Uint8Array(), 1], [a, 2]), ["ok"]);
  assertEquals(expected(talk([[new Uint8Array(), 1], [record(), 2]])).pairs, [[2, null]]);
});

// The library.

test("two thousand conversations and gobs come out as they must", async () => {
  let conversations = 0;
  const kinds = new Set<string>();
  for (let from = 0; from < 2000; from += 200) {
    const tally = await runBatch(seed, from, from + 200);
    assertEquals(tally.findings, []);
    conversations += tally.conversations;
    for (const kind of Object.keys(tally.kinds)) kinds.add(kind);
  }
  assertEquals(conversations, 2000);
  // Every mutation, every circumstance and every damage to a gob came up.
  assertEquals([...kinds].sort(), allKinds.toSorted());
});

// Controls: what is broken is found.

test("a descriptor that is left open is found, with the conversation that left it", async () => {
  const left: number[] = [];
  const leaky = withCallback((callback) => (fd, meta) => {
    if (left.length === 0 || meta?.[0] === 0x16) left.push(dup(fd.raw));
    return callback(fd, meta);
  });
  const { findings } = await runBatch(seed, 0, 200, leaky);
  closeAll(left);
  assert(left.length > 0);
  assertStringIncludes(findings.join("\n"), "left open");
});

test("a descriptor with the meta of another is found", async () => {
  const both = talk([[record("a"), 1], [record("b"), 2]]);
  assertEquals(await problems(both), "");
  const late = withCallback((callback) => {
    let before: Uint8Array | null = null;
    return (fd, meta) => {
      const given = before;
      before = meta;
      return callback(fd, given);
    };
  });
  assertStringIncludes(await problems(both, late), "delivery 0 is file 1 with no meta, not");
});

test("a delivery that is left out, or comes twice, is found", async () => {
  const both = talk([[record("a"), 1], [record("b"), 2]]);
  const deaf = withCallback((callback) => (fd, meta) => {
    if (meta?.[0] !== 0x61) return callback(fd, meta);
  });
  assertStringIncludes(await problems(both, deaf), "delivery 0 is file 2");
  const eager = withCallback((callback) => async (fd, meta) => {
    await callback(fd, meta);
    await callback(fd, meta);
  });
  assertStringIncludes(await problems(both, eager), "one too many");
});

/** A receiver that takes one kind of error for the end. */
function swallowing(name: string): Receiver {
  const { receiveAllFrom: all, receiveFrom: each } = withCallback((callback) => callback);
  return {
    receiveFrom: each,
    // deno-lint-ignore no-explicit-any -- only what takes a callback is used
    receiveAllFrom: (async (conn: UnixConn, callback: ReceiveCallback, options: any) => {
      try {
        return await all(conn, callback, options);
      } catch (error) {
        if ((error as Error).name !== name) throw error;
        return 0;
      }
      // deno-lint-ignore no-explicit-any -- see above
    }) as any,
  };
}

test("truncation that is not told is found", async () => {
  const three = talk([[record("a"), 1], [new Uint8Array(12), 2, 3, 4]], {
    spare: 2,
    ending: "shutdown",
  });
  const { end, problems: none } = await converse(three);
  assertEquals([end, none], [new ControlTruncatedError("").name, []]);
  assertStringIncludes(
    await problems(three, swallowing("ControlTruncatedError")),
    'ended with "ok"',
  );
});

test("an end inside a record that is not told is found", async () => {
  const half = talk([[record("abc").slice(0, 5), 1]]);
  assertEquals(await problems(half), "");
  assertStringIncludes(await problems(half, swallowing("UnexpectedEofError")), 'ended with "ok"');
});

test("a wait without an end is found", async () => {
  const forever = swallowing("nothing");
  // deno-lint-ignore no-explicit-any -- it never gives anything
  forever.receiveAllFrom = (() => new Promise(() => {})) as any;
  const one = talk([[record("a"), 1]]);
  const { problems } = await converse(one, forever, { deadline: 50 });
  assertStringIncludes(problems.join(), "It hangs");
});

test("a receiver that does not hear its signal is found", async () => {
  const deaf = swallowing("nothing");
  const without = (conn: UnixConn, callback: ReceiveCallback) => receiveAllFrom(conn, callback);
  // deno-lint-ignore no-explicit-any -- only what takes a callback is used
  deaf.receiveAllFrom = without as any;
  const stalls = talk([[record("a"), 1], [record("b"), 2]], { stalls: [1] });
  assertEquals(await problems(stalls), "");
  const { problems: found } = await converse(stalls, deaf, { deadline: 200 });
  assertStringIncludes(found.join(), "It hangs");
});

test("memory for what is only announced is found", async () => {
  const huge = talk([[Uint8Array.of(255, 255, 255, 255), 1]]);
  assertEquals(await problems(huge), "");
  const kept: Uint8Array[] = [];
  const greedy = withCallback((callback) => callback);
  const { receiveAllFrom: all } = greedy;
  // deno-lint-ignore no-explicit-any -- as the one it stands for
  greedy.receiveAllFrom = ((...args: [any, any, any]) => {
    kept.push(new Uint8Array(256 << 20));
    return all(...args);
    // deno-lint-ignore no-explicit-any -- see above
  }) as any;
  assertStringIncludes(await problems(huge, greedy), "bytes of buffers are new");
});

test("a decoder that fails otherwise, or that changes what it reads, is found", () => {
  const bytes = new Uint8Array(new Meta({ a: 1, b: [1, "two"] }).encode());
  assertEquals(decodeGob({ bytes }).problems, []);
  assertEquals(decodeGob({ bytes: bytes.slice(1) }).problems, []);
  const failing = () => {
    throw new RangeError("Maximum call stack size exceeded");
  };
  assertStringIncludes(decodeGob({ bytes }, failing).problems.join(), "RangeError");
  let calls = 0;
  const fickle = (given: Uint8Array) => Meta.from(given).set("calls", calls++);
  assertEquals(decodeGob({ bytes }, fickle).problems, [
    "its encoding does not settle",
    "its encoding is that of something else",
  ]);
  const careless = (given: Uint8Array) => {
    const meta = Meta.from(given);
    given.fill(0);
    return meta;
  };
  assertStringIncludes(decodeGob({ bytes: bytes.slice() }, careless).problems.join(), "changed");
});

// The command.

/** What the command prints, and its exit code. */
async function fuzz(...args: string[]): Promise<{ code: number; text: string }> {
  await using child = new Child("../system/fuzz.ts", args);
  const { code, stdout, stderr } = await child.ended();
  return { code, text: [...stdout, stderr].join("\n") };
}

test("the command says how it is used", async () => {
  const [help, strange, negative] = await Promise.all([
    fuzz("--help"),
    fuzz("--conversations", "5"),
    fuzz("--count=-1"),
  ]);
  assertEquals([help.code, strange.code, negative.code], [0, 2, 2]);
  for (const { text } of [help, strange, negative]) assertStringIncludes(text, "Usage");
});

test("the command counts the same with one process and with two", async () => {
  const args = ["--count", "600", "--seed", String(seed), "--workers"];
  const [one, two] = [await fuzz(...args, "1"), await fuzz(...args, "2")];
  assertEquals([one.code, two.code], [0, 0]);
  const counts = (text: string) => text.slice(0, text.indexOf("600 conversations")).trimEnd();
  assertStringIncludes(counts(one.text), "How it ended:");
  assertEquals(counts(two.text).split("\n").sort(), counts(one.text).split("\n").sort());
});

test("the command holds one conversation again, and shows it", async () => {
  const { code, text } = await fuzz("--only", "7", "--seed", String(seed));
  assertEquals(code, 0);
  assertStringIncludes(text, `seed ${seed}, conversation 7: `);
});

test("a process that ends is a failure", async () => {
  // It cannot open what there is to send.
  await using child = new Child("../system/fuzz.ts", ["--count", "1"], { openFiles: 300 });
  const { code, stdout } = await child.ended();
  assertEquals(code, 1);
  assertStringIncludes(stdout.join("\n"), "conversation 0");
});
