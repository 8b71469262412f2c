import { assertEquals, assertThrows } from "@std/assert";
import { HandoverError } from "../mod.ts";
import {
  decodeFrame,
  encodeFrame,
  type Frame,
  frameLength,
  maxFrameBytes,
  type Status,
} from "../lib/frame.ts";

const status: Status = {
  generation: 3,
  pid: 7,
  since: 1,
  state: "serving",
  sockets: [{ kind: "listener", address: "127.0.0.1:80", connections: 2 }],
  kept: ["name"],
};

/** One of each type. */
const frames: Frame[] = [
  { type: "hello", version: 1, pid: 7 },
  { type: "hello", version: 1, pid: 7, token: "t" },
  {
    type: "offer",
    version: 1,
    generation: 2,
    pid: 7,
    items: [
      { kind: "control", key: "" },
      { kind: "listener", key: "unix /run/a", path: "/run/a" },
      { kind: "state", key: "ümlaut", bytes: 0 },
    ],
  },
  { type: "refused", reason: "another", code: "busy" },
  { type: "ready", probation: 5000 },
  { type: "failed", message: "no" },
  { type: "draining" },
  { type: "healthy" },
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

Deno.test("every type of frame arrives as it was sent", () => {
  for (const frame of frames) {
    const bytes = encodeFrame(frame);
    assertEquals(frameLength(bytes.subarray(0, 4)), bytes.length - 4);
    assertEquals(decodeFrame(bytes.subarray(4)), frame);
  }
});

Deno.test("a frame without one of its fields, or with a wrong one, is refused by name", () => {
  for (const frame of frames) {
    for (const field of Object.keys(frame).filter((name) => name !== "type")) {
      for (const wrong of [undefined, null, {}, -1, 1.5, [{}]]) {
        if (field === "status" && typeof wrong === "object" && wrong) continue;
        if (field === "token" && wrong === undefined) continue;
        if (field === "probation" && wrong === 1.5) continue;
        const text = JSON.stringify({ ...frame, [field]: wrong });
        assertThrows(
          () => decodeFrame(new TextEncoder().encode(text)),
          HandoverError,
          `A frame of type "${frame.type}" has no right "${field}"`,
          text,
        );
      }
    }
  }
});

Deno.test("an item of an offer is checked like its frame", () => {
  const items = [
    { kind: "pipe", key: "" },
    { kind: "listener" },
    { kind: "listener", key: "a", path: 1 },
    { kind: "state", key: "a" },
    { kind: "state", key: "a", bytes: -1 },
    { kind: "kept", key: "a", bytes: 1 },
    null,
    "listener",
  ];
  for (const item of items) {
    const offer = { type: "offer", version: 1, generation: 1, pid: 1, items: [item] };
    assertThrows(
      () => decodeFrame(new TextEncoder().encode(JSON.stringify(offer))),
      HandoverError,
      `has no right "items"`,
      JSON.stringify(item),
    );
  }
});

Deno.test("what is no frame is refused", () => {
  const wrong: Record<string, string> = {
    "": "not JSON",
    "{": "not JSON",
    '"a"': "unknown type: undefined",
    "null": "unknown type: undefined",
    "[]": "unknown type: undefined",
    '{"type":"toString"}': `unknown type: "toString"`,
    '{"type":1}': "unknown type: 1",
    '{"type":"hullo"}': `unknown type: "hullo"`,
  };
  for (const [text, message] of Object.entries(wrong)) {
    const bytes = new TextEncoder().encode(text);
    const error = assertThrows(() => decodeFrame(bytes), HandoverError, message);
    assertEquals(error.code, "ERR_HANDOVER_PROTOCOL");
  }
  assertThrows(() => decodeFrame(Uint8Array.of(0x22, 0xff, 0x22)), HandoverError, "not JSON");
});

Deno.test("a length of nothing, or over the limit, is refused before anything is allocated", () => {
  for (const length of [0, maxFrameBytes + 1, 2 ** 32 - 1]) {
    const head = new Uint8Array(4);
    new DataView(head.buffer).setUint32(0, length, true);
    assertThrows(() => frameLength(head), HandoverError, `A frame of ${length} bytes is none`);
  }
  const long = "x".repeat(maxFrameBytes);
  assertThrows(() => encodeFrame({ type: "failed", message: long }), HandoverError, "is none");
});
