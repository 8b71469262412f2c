/**
 * A short run of the fuzzer, and controls: receivers with a defect, which the fuzzer has to find.
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
import { Chance } from "../support/chance.ts";
import { record } from "../support/raw.ts";
import { test } from "../support/guard.ts";
import { runBatch, warmUp } from "./fuzz_batch.ts";
import { type Conversation, type Message, message } from "./fuzz_conversation.ts";
import { type Receiver, runConversation } from "./fuzz_converse.ts";
import { expected } from "./fuzz_expected.ts";
import { conversationKinds, makeConversation } from "./fuzz_generate.ts";
import { decodeGob, gobKinds, makeGob } from "./fuzz_gobs.ts";

// The files to send stay open: they are opened before the guard counts descriptors.
await warmUp();

const seed = 20;

/** A conversation of these messages: bytes, with descriptors of these files. */
function byHand(
  messages: [bytes: Uint8Array<ArrayBuffer>, ...files: number[]][],
  others: Partial<Conversation> = {},
): Conversation {
  return {
    seed: 0,
    index: 0,
    kinds: ["by hand"],
    messages: messages.map(([bytes, ...files]): Message => message(bytes, files)),
    plain: 0,
    limit: 1 << 20,
    reading: "all",
    callback: "ignore",
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

/** The receiver of the library, with another callback. */
function withCallback(change: (callback: ReceiveCallback) => ReceiveCallback): Receiver {
  function all(
    conn: UnixConn,
    callback?: ReceiveCallback | ReceiveOptions,
    options?: ReceiveOptions,
    // deno-lint-ignore no-explicit-any -- either of two overloads
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

/** The problems that the fuzzer finds in a conversation. */
async function problems(conversation: Conversation, receiver?: Receiver): Promise<string> {
  return (await runConversation(conversation, receiver)).problems.join("\n");
}

// Making conversations and gobs.

test("a conversation and a gob are functions of seed and index", () => {
  const gobs = [new Meta({ a: 1 }).encode(), new Meta({ b: "two" }).encode()];
  for (let index = 0; index < 300; index++) {
    const first = makeConversation(seed, index);
    makeConversation(seed, index + 1);
    assertEquals(makeConversation(seed, index), first);
    assertEquals(makeGob(seed, index, gobs), makeGob(seed, index, gobs));
    assertNotEquals({ ...makeConversation(seed, index + 1), index }, first);
    assertNotEquals({ ...makeConversation(seed + 1, index), seed }, first);
  }
});

test("makeGob() does not change the gobs that it is given", () => {
  const gobs = [new Meta({ a: 1 }).encode()];
  const before = gobs[0].slice();
  for (let index = 0; index < 500; index++) makeGob(seed, index, gobs);
  assertEquals(gobs[0], before);
});

test("Chance gives another stream of numbers for each index, and every number of a range", () => {
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

// What a receiver must deliver.

test("expected() is the truth table of the protocol", () => {
  const ends = (...messages: Parameters<typeof byHand>[0]) => [...expected(byHand(messages)).ends];
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
  assertEquals(expected(byHand([[new Uint8Array(), 1], [record(), 2]])).pairs, [[2, null]]);
});

// The library.

test("two thousand conversations and gobs end as the protocol demands", async () => {
  let conversations = 0;
  const kinds = new Set<string>();
  for (let from = 0; from < 2000; from += 200) {
    const tally = await runBatch(seed, from, from + 200);
    assertEquals(tally.findings, []);
    conversations += tally.conversations;
    for (const kind of Object.keys(tally.kinds)) kinds.add(kind);
  }
  assertEquals(conversations, 2000);
  // Every mutation and every circumstance has come up.
  assertEquals([...kinds].sort(), [...conversationKinds, ...gobKinds].sort());
});

// Controls: a receiver with a defect is found.

test("a control: the fuzzer finds a descriptor that is left open, and its conversation", async () => {
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

test("a control: the fuzzer finds a descriptor with the meta of another one", async () => {
  const both = byHand([[record("a"), 1], [record("b"), 2]]);
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

test("a control: the fuzzer finds a delivery that is missing, or comes twice", async () => {
  const both = byHand([[record("a"), 1], [record("b"), 2]]);
  const deaf = withCallback((callback) => (fd, meta) => {
    if (meta?.[0] !== 0x61) return callback(fd, meta);
  });
  assertStringIncludes(await problems(both, deaf), "delivery 0 is file 2");
  const eager = withCallback((callback) => async (fd, meta) => {
    await callback(fd, meta);
    await callback(fd, meta);
  });
  assertStringIncludes(await problems(both, eager), "surplus");
});

/** A receiver that takes errors of this name for the end. */
function swallowing(name: string): Receiver {
  const { receiveAllFrom: all, receiveFrom: each } = withCallback((callback) => callback);
  return {
    receiveFrom: each,
    // deno-lint-ignore no-explicit-any -- only the overload with a callback is used
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

test("a control: the fuzzer finds a truncation that is not reported", async () => {
  const three = byHand([[record("a"), 1], [new Uint8Array(12), 2, 3, 4]], {
    spare: 2,
    ending: "shutdown",
  });
  const { end, problems: none } = await runConversation(three);
  assertEquals([end, none], [new ControlTruncatedError("").name, []]);
  assertStringIncludes(
    await problems(three, swallowing("ControlTruncatedError")),
    'ended with "ok"',
  );
});

test("a control: the fuzzer finds an end inside a record that is not reported", async () => {
  const half = byHand([[record("abc").slice(0, 5), 1]]);
  assertEquals(await problems(half), "");
  assertStringIncludes(await problems(half, swallowing("UnexpectedEofError")), 'ended with "ok"');
});

test("a control: the fuzzer finds a receiver that hangs", async () => {
  const forever = swallowing("nothing");
  // deno-lint-ignore no-explicit-any -- it never resolves
  forever.receiveAllFrom = (() => new Promise(() => {})) as any;
  const one = byHand([[record("a"), 1]]);
  const { problems } = await runConversation(one, forever, { deadline: 50 });
  assertStringIncludes(problems.join(), "The receiver hangs");
});

test("a control: the fuzzer finds a receiver that ignores its signal", async () => {
  const deaf = swallowing("nothing");
  const without = (conn: UnixConn, callback: ReceiveCallback) => receiveAllFrom(conn, callback);
  // deno-lint-ignore no-explicit-any -- only the overload with a callback is used
  deaf.receiveAllFrom = without as any;
  const stalls = byHand([[record("a"), 1], [record("b"), 2]], { stalls: [1] });
  assertEquals(await problems(stalls), "");
  const { problems: found } = await runConversation(stalls, deaf, { deadline: 200 });
  assertStringIncludes(found.join(), "The receiver hangs");
});

test("a control: the fuzzer finds memory that is allocated for a length that is only announced", async () => {
  const huge = byHand([[Uint8Array.of(255, 255, 255, 255), 1]]);
  assertEquals(await problems(huge), "");
  const kept: Uint8Array[] = [];
  const greedy = withCallback((callback) => callback);
  const { receiveAllFrom: all } = greedy;
  // deno-lint-ignore no-explicit-any -- the same overloads
  greedy.receiveAllFrom = ((...args: [any, any, any]) => {
    kept.push(new Uint8Array(256 << 20));
    return all(...args);
    // deno-lint-ignore no-explicit-any -- see above
  }) as any;
  assertStringIncludes(await problems(huge, greedy), "bytes of buffers were allocated");
});

test("a control: decodeGob() finds a decoder that throws other errors, or changes its input", () => {
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
    "its encoding changes each time",
    "its encoding is that of another value",
  ]);
  const careless = (given: Uint8Array) => {
    const meta = Meta.from(given);
    given.fill(0);
    return meta;
  };
  assertStringIncludes(decodeGob({ bytes: bytes.slice() }, careless).problems.join(), "changed");
});

// The command.

/** The output of the command, and its exit code. */
async function fuzz(...args: string[]): Promise<{ code: number; text: string }> {
  await using child = new Child("../system/fuzz.ts", args);
  const { code, stdout, stderr } = await child.ended();
  return { code, text: [...stdout, stderr].join("\n") };
}

test("deno task fuzz prints its usage, and exits with 2 for unknown arguments", async () => {
  const [help, strange, negative] = await Promise.all([
    fuzz("--help"),
    fuzz("--conversations", "5"),
    fuzz("--count=-1"),
  ]);
  assertEquals([help.code, strange.code, negative.code], [0, 2, 2]);
  for (const { text } of [help, strange, negative]) assertStringIncludes(text, "Usage");
});

test("deno task fuzz has the same results with one process and with two", async () => {
  const args = ["--count", "600", "--seed", String(seed), "--workers"];
  const [one, two] = [await fuzz(...args, "1"), await fuzz(...args, "2")];
  assertEquals([one.code, two.code], [0, 0]);
  const counts = (text: string) => text.slice(0, text.indexOf("600 conversations")).trimEnd();
  assertStringIncludes(counts(one.text), "Ends:");
  assertEquals(counts(two.text).split("\n").sort(), counts(one.text).split("\n").sort());
});

test("deno task fuzz --only runs one conversation again, and prints it", async () => {
  const { code, text } = await fuzz("--only", "7", "--seed", String(seed));
  assertEquals(code, 0);
  assertStringIncludes(text, `seed ${seed}, conversation 7: `);
});

test("deno task fuzz reports the conversation whose process ends", async () => {
  // The process cannot open the files to send.
  await using child = new Child("../system/fuzz.ts", ["--count", "1"], { openFiles: 300 });
  const { code, stdout } = await child.ended();
  assertEquals(code, 1);
  assertStringIncludes(stdout.join("\n"), "conversation 0");
});
