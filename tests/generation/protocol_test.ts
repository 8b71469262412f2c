import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { HandoverError } from "../../mod.ts";
import {
  decodeFrame,
  encodeFrame,
  frameLength,
  offerFrames,
  reportFrame,
} from "../../lib/generation/frame.ts";
import {
  type Frame,
  type GenerationStatus,
  maxFrameBytes,
  maxNameLength,
  type OfferedItem,
} from "../../lib/generation/protocol.ts";

const status: GenerationStatus = {
  generation: 3,
  pid: 7,
  service: "billing",
  since: 1,
  state: "serving",
  sockets: [{
    kind: "listener",
    address: "127.0.0.1:80",
    connections: 2,
    name: "web",
    elsewhere: true,
  }],
  kept: ["name"],
  moreKept: 1,
  predecessor: { pid: 6, generation: 2, connections: 0 },
};

/** A frame of each type. */
const frames: Frame[] = [
  { type: "hello", version: 2, pid: 7 },
  { type: "hello", version: 2, pid: 7, token: "t", service: "s".repeat(255) },
  {
    type: "offer",
    version: 2,
    generation: 2,
    pid: 7,
    items: [
      { kind: "control", key: "" },
      {
        kind: "listener",
        key: "unix /run/a",
        name: "web",
        path: "/run/a",
        senderPid: 0,
        file: { path: "/run/a", dev: "26", ino: "18446744073709551615" },
      },
      { kind: "state", key: "ümlaut", bytes: 0 },
    ],
    more: 1,
  },
  { type: "items", items: [{ kind: "kept", key: "a" }] },
  { type: "refused", reason: "another", code: "busy" },
  { type: "ready", probation: 5000 },
  { type: "failed", message: "no" },
  { type: "withdrawn" },
  { type: "healthy" },
  { type: "healthy", dropped: ["127.0.0.1:80"] },
  { type: "moved", name: "echo" },
  { type: "progress", connections: 12 },
  { type: "rollback", reason: "too late" },
  { type: "status" },
  { type: "report", status },
  { type: "restart" },
  { type: "stop" },
  { type: "done", pid: 8, generation: 3 },
];

Deno.test("a frame is a little-endian length and JSON", () => {
  const bytes = encodeFrame({ type: "stop" });
  assertEquals([...bytes.subarray(0, 4)], [15, 0, 0, 0]);
  assertEquals(new TextDecoder().decode(bytes.subarray(4)), `{"type":"stop"}`);
});

Deno.test("decodeFrame() returns a frame of every type as encodeFrame() took it", () => {
  for (const frame of frames) {
    const bytes = encodeFrame(frame);
    assertEquals(frameLength(bytes.subarray(0, 4)), bytes.length - 4);
    assertEquals(decodeFrame(bytes.subarray(4)), frame);
  }
});

/** Values that are invalid in every field of their kind. */
const never = [null, {}, [{}], true];
const notInteger = [...never, "1", 1.5, -1, 2 ** 53];
const notPid = [...notInteger, 0, 2 ** 31, 2 ** 40];
const notGeneration = [...notInteger, 0, 2 ** 32 + 1];
const notText = [...never, 1];
const notList = [null, {}, true, "", 1, [null], [1]];

/** The fields of every type of frame, at every depth, with invalid values. */
const wrong: Record<string, { frame: Frame["type"]; values: unknown[] }> = {
  "version of hello": { frame: "hello", values: [...notInteger, undefined, 0, 2 ** 32] },
  "pid of hello": { frame: "hello", values: [...notPid, undefined] },
  "token": { frame: "hello", values: notText },
  "service of hello": { frame: "hello", values: [...notText, "", "s".repeat(256)] },
  "version of offer": { frame: "offer", values: [...notInteger, undefined, 0, 2 ** 32] },
  // The number of the successor has to be valid, too.
  "generation of offer": { frame: "offer", values: [...notGeneration, undefined, 2 ** 32] },
  "pid of offer": { frame: "offer", values: [...notPid, undefined] },
  "items": { frame: "offer", values: [...notList, undefined, []] },
  "items[1].kind": { frame: "offer", values: [...notText, undefined, "", "pipe", "toString"] },
  "items[1].key": { frame: "offer", values: [...notText, undefined] },
  "items[1].path": {
    frame: "offer",
    values: [...notText, "", "a\0b", "x".repeat(108), `\0${"x".repeat(108)}`, "ü".repeat(54)],
  },
  "items[1].name": { frame: "offer", values: notText },
  "more": { frame: "offer", values: notInteger },
  "items of items": { frame: "items", values: [...notList, undefined] },
  "items[0].kind of items": {
    frame: "items",
    values: [...notText, undefined, "", "pipe", "control", "stdout", "stderr"],
  },
  "items[0].key of items": { frame: "items", values: [...notText, undefined] },
  "items[1].senderPid": { frame: "offer", values: [...notInteger, 2 ** 31, 2 ** 40] },
  "items[1].file": { frame: "offer", values: [null, true, "", 1, [{}], {}] },
  "items[1].file.path": {
    frame: "offer",
    values: [...notText, undefined, "", "a\0b", "x".repeat(4096)],
  },
  "items[1].file.dev": {
    frame: "offer",
    values: [...notText, undefined, "", "-1", "0x1", "01", "1.5", "18446744073709551616"],
  },
  "items[1].file.ino": {
    frame: "offer",
    values: [...notText, undefined, "", "-1", "0x1", "01", "1.5", "18446744073709551616"],
  },
  "items[1].bytes": { frame: "offer", values: [0, 1] },
  "items[2].bytes": { frame: "offer", values: [...notInteger, undefined, 2 ** 31, 2 ** 40] },
  "reason of refused": { frame: "refused", values: [...notText, undefined] },
  "code": { frame: "refused", values: [...notText, undefined, "", "toString", "later"] },
  "probation": { frame: "ready", values: [...never, undefined, "1", -1] },
  "message": { frame: "failed", values: [...notText, undefined] },
  "dropped": { frame: "healthy", values: notList },
  "dropped[0]": { frame: "healthy", values: notText },
  "name": { frame: "moved", values: [...notText, undefined] },
  "connections": { frame: "progress", values: [...notInteger, undefined] },
  "reason of rollback": { frame: "rollback", values: [...notText, undefined] },
  "status": { frame: "report", values: [...notText, undefined, "", []] },
  "status.generation": { frame: "report", values: [...notGeneration, undefined] },
  "status.pid": { frame: "report", values: [...notPid, undefined] },
  "status.service": { frame: "report", values: [...notText, "", "s".repeat(256)] },
  "status.since": { frame: "report", values: [...notInteger, undefined, 8.64e15 + 1] },
  "status.state": { frame: "report", values: [...notText, undefined, "", "asleep"] },
  "status.sockets": { frame: "report", values: [...notList, undefined] },
  "status.sockets[0].kind": { frame: "report", values: [...notText, undefined, "file"] },
  "status.sockets[0].address": { frame: "report", values: [...notText, undefined] },
  "status.sockets[0].connections": { frame: "report", values: [...notInteger, undefined] },
  "status.sockets[0].name": { frame: "report", values: notText },
  "status.sockets[0].elsewhere": { frame: "report", values: [null, {}, [], "", 1, false] },
  "status.moreKept": { frame: "report", values: notInteger },
  "status.kept": { frame: "report", values: [...notList, undefined] },
  "status.kept[0]": { frame: "report", values: notText },
  "status.predecessor": { frame: "report", values: [null, [], "", 1, true] },
  "status.predecessor.pid": { frame: "report", values: [...notPid, undefined] },
  "status.predecessor.generation": { frame: "report", values: [...notGeneration, undefined] },
  "status.predecessor.connections": { frame: "report", values: [...notInteger, undefined] },
  "pid of done": { frame: "done", values: [...notPid, undefined] },
  "generation of done": { frame: "done", values: [...notGeneration, undefined] },
};

Deno.test("decodeFrame() and encodeFrame() name a field that is missing, of another kind or out of range", () => {
  for (const [about, { frame: type, values }] of Object.entries(wrong)) {
    const [field] = about.split(" of ");
    for (const value of values) {
      const frame = structuredClone(frames.findLast((frame) => frame.type === type)!);
      set(frame, field, value);
      const text = JSON.stringify(frame);
      for (
        const meet of [
          () => decodeFrame(new TextEncoder().encode(text)),
          // Before it is sent as well: the fault is on this side.
          () => encodeFrame(frame),
        ]
      ) {
        const error = assertThrows(meet, HandoverError, "", text);
        assertEquals(error.code, "ERR_HANDOVER_PROTOCOL");
        const named = `A frame of type "${type}" is against the protocol: ${field}`;
        // The error may name a field inside the invalid one.
        assert(error.message.startsWith(named), `${text}: ${error.message}`);
        assertMatch(error.message, /^[^\p{Cc}]{1,200} belongs$/u);
      }
    }
  }
});

Deno.test("the table has invalid values for every field of every frame", () => {
  const fieldsOf = (value: unknown, parent: string): string[] => {
    if (typeof value !== "object" || value === null) return [];
    return Object.entries(value).flatMap(([name, each]) => {
      const field = Array.isArray(value) ? `${parent}[]` : `${parent}.${name}`;
      return [field, ...fieldsOf(each, field)];
    });
  };
  const tried = Object.entries(wrong).map(([about, { frame }]) =>
    `${frame}.${about.split(" of ")[0].replaceAll(/\d+/g, "")}`
  );
  const untried = frames.flatMap(({ type, ...fields }) => fieldsOf(fields, type)).filter((field) =>
    !tried.includes(field) && !field.endsWith("s[]")
  );
  assertEquals(untried, []);
});

Deno.test("an offer has exactly one control socket, and at most one of each stream", () => {
  const control = { kind: "control", key: "" };
  const stream = { kind: "stdout", key: "" };
  const offer = (items: unknown[]) =>
    new TextEncoder().encode(
      JSON.stringify({ type: "offer", version: 2, generation: 1, pid: 1, items }),
    );
  decodeFrame(offer([control, stream]));
  for (const items of [[], [stream], [control, control], [control, stream, stream]]) {
    assertThrows(() => decodeFrame(offer(items)), HandoverError, "items is an array of");
  }
});

Deno.test("offerFrames() splits the items over as many frames as they need, in order", () => {
  const offer = { generation: 1, pid: 1 };
  const control: OfferedItem = { kind: "control", key: "" };
  assertEquals(offerFrames(offer, [control]), [
    { type: "offer", version: 2, ...offer, items: [control] },
  ]);
  const many = Array.from({ length: 100_000 }, (_, i): OfferedItem => ({
    kind: "state",
    // The characters that are longest in UTF-8 and JSON.
    key: i % 1000 === 0 ? "\0€".repeat(1000) : `session ${i}`,
    bytes: i,
  }));
  const longest: OfferedItem = { kind: "kept", key: "\0".repeat(maxNameLength) };
  const all = [control, ...many, longest];
  const frames = offerFrames(offer, all).map((frame) =>
    decodeFrame(encodeFrame(frame).subarray(4))
  );
  assert(frames.length > 10);
  assertEquals(frames.flatMap((frame) => "items" in frame ? frame.items : []), all);
  const [first, ...rest] = frames as [Frame & { type: "offer" }, ...Frame[]];
  assertEquals(first.items.length + first.more!, all.length);
  assert(rest.every(({ type }) => type === "items"));
});

Deno.test("reportFrame() keeps as many names as a frame holds, and counts the rest", () => {
  const kept = Array.from({ length: 300_000 }, (_, i) => `session-${i}-${"x".repeat(20)}`);
  const { moreKept: _, ...whole } = status;
  assertEquals(reportFrame({ ...whole, kept: [] }), {
    type: "report",
    status: { ...whole, kept: [] },
  });
  const frame = decodeFrame(encodeFrame(reportFrame({ ...whole, kept })).subarray(4));
  const { status: told } = frame as Frame & { type: "report" };
  assertEquals(told.kept, kept.slice(0, told.kept.length));
  assertEquals(told.kept.length + told.moreKept!, kept.length);
  assert(told.kept.length > 1000);
});

Deno.test("decodeFrame() drops unknown fields, however deep they are", () => {
  const deep = "[".repeat(1_000_000) + "]".repeat(1_000_000);
  const text = JSON.stringify({ type: "report", status, more: 0 }).replace(
    `"more":0`,
    `"more":${deep}`,
  )
    .replace(`"generation":3`, `"generation":3,"__proto__":{"state":"asleep"},"more":${deep}`);
  assertEquals(decodeFrame(new TextEncoder().encode(text)), { type: "report", status });
});

Deno.test("decodeFrame() escapes control characters in messages, and leaves names unchanged", () => {
  const text = "\x1b[2J\x1b[31mred\x1b[0m\r\n\tat\u202ex\n\nforged";
  const escaped = "\\u001b[2Jred\n    at\\u202ex\n\n    forged";
  const arrived = (frame: Frame) => decodeFrame(encodeFrame(frame).subarray(4));
  const messages: Frame[] = [
    { type: "failed", message: text },
    { type: "rollback", reason: text },
    { type: "refused", reason: text, code: "busy" },
  ];
  for (const frame of messages) {
    const { message, reason } = arrived(frame) as { message?: string; reason?: string };
    assertEquals(message ?? reason, escaped);
    // A second pass changes nothing: a message may go through several processes.
    assertEquals(arrived(arrived(frame)), arrived(frame));
  }
  const moved: Frame = { type: "moved", name: text };
  assertEquals(arrived(moved), moved);
});

/** Sets the field at a path like `items[1].key`; undefined deletes it. */
function set(frame: Frame, path: string, value: unknown): void {
  const names = path.split(/[.[\]]+/).filter((name) => name !== "");
  const last = names.pop()!;
  // deno-lint-ignore no-explicit-any -- a field of any type
  let parent: any = frame;
  for (const name of names) parent = parent[name];
  if (value === undefined) delete parent[last];
  else parent[last] = value;
}

Deno.test("decodeFrame() throws for bytes that are no frame", () => {
  const wrong: Record<string, string> = {
    "": "not JSON",
    "{": "not JSON",
    '"a"': "unknown type: undefined",
    "null": "unknown type: undefined",
    "[]": "unknown type: undefined",
    '{"type":"toString"}': `unknown type: "toString"`,
    '{"type":1}': "unknown type: number",
    '{"type":"hullo"}': `unknown type: "hullo"`,
  };
  for (const [text, message] of Object.entries(wrong)) {
    const bytes = new TextEncoder().encode(text);
    const error = assertThrows(() => decodeFrame(bytes), HandoverError, message);
    assertEquals(error.code, "ERR_HANDOVER_PROTOCOL");
  }
  assertThrows(() => decodeFrame(Uint8Array.of(0x22, 0xff, 0x22)), HandoverError, "not JSON");
  // The error quotes V8's message, which contains the input.
  const escapes = new TextEncoder().encode("\x1b[2J\x07");
  const { message, cause } = assertThrows(() => decodeFrame(escapes), HandoverError, "not JSON");
  assertMatch(message, /^[^\p{Cc}]+\\u001b\[2J[^\p{Cc}]+$/u);
  assertEquals(cause, undefined);
});

Deno.test("frameLength() and encodeFrame() throw for a length of 0 or above the limit, before they allocate", () => {
  for (const length of [0, maxFrameBytes + 1, 2 ** 32 - 1]) {
    const head = new Uint8Array(4);
    new DataView(head.buffer).setUint32(0, length, true);
    assertThrows(
      () => frameLength(head),
      HandoverError,
      `Invalid frame length ${length}: must be 1 to 16777216`,
    );
  }
  const long = "x".repeat(maxFrameBytes);
  assertThrows(
    () => encodeFrame({ type: "failed", message: long }),
    HandoverError,
    `A frame of type "failed" has ${maxFrameBytes + 30} bytes, and 16777216 at most`,
  );
  const items: OfferedItem[] = [
    { kind: "control", key: "" },
    { kind: "state", key: long, bytes: 1 },
  ];
  assertThrows(
    () => encodeFrame({ type: "offer", version: 2, generation: 1, pid: 1, items }),
    HandoverError,
    "it names all 2 things that are handed over: keep fewer, or under shorter names",
  );
});
