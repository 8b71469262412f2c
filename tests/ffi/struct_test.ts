import { assertEquals, assertThrows } from "@std/assert";
import { c, controlSizesOf, errnos, structsOf, type System } from "../../ffi/abi.ts";
import { bytes, struct } from "../../ffi/struct.ts";
import layouts from "../data/layouts.json" with { type: "json" };

/** Offset and size of a field, in bytes. */
type Place = [offset: number, size: number];

interface Row {
  structs: Record<string, { size: number; align: number; fields: Record<string, Place> }>;
  cmsg: { CMSG_LEN: Record<string, number>; CMSG_SPACE: Record<string, number> };
}

const systems: System[] = ["linux_x86_64", "linux_aarch64", "macos_arm64", "macos_x86_64"];

for (const system of systems) {
  const row = layouts[system] as unknown as Row;

  Deno.test(`every struct of ${system} has the size, alignment and offsets of the C compiler`, () => {
    const structs = structsOf(system);
    assertEquals(Object.keys(structs).sort(), Object.keys(row.structs).sort());
    for (const [name, expected] of Object.entries(row.structs)) {
      const layout = structs[name];
      assertEquals([name, layout.size, layout.align], [name, expected.size, expected.align]);
      for (const [field, [offset]] of Object.entries(expected.fields)) {
        assertEquals([name, field, layout.offset(field)], [name, field, offset]);
      }
    }
  });

  Deno.test(`every field of ${system} fills the very bytes of C's, and no other`, () => {
    for (const [name, expected] of Object.entries(row.structs)) {
      const layout = structsOf(system)[name];
      for (const [field, [offset, size]] of Object.entries(expected.fields)) {
        // A struct with padding of its own, and tested as such.
        if (field === "msg_hdr") continue;
        const packed = layout.pack({ [field]: full(layout.fields[field]) }, () => 2n ** 64n - 1n);
        const filled = Array.from(packed, (byte, i) => byte === 0 ? -1 : i).filter((i) => i >= 0);
        const places = Array.from({ length: size }, (_, i) => offset + i);
        assertEquals([name, field, filled], [name, field, places]);
      }
    }
  });

  Deno.test(`the control message macros give the sizes of ${system}`, () => {
    const { length, space } = controlSizesOf(system);
    for (const [size, expected] of Object.entries(row.cmsg.CMSG_LEN)) {
      assertEquals(length(Number(size)), expected);
    }
    for (const [size, expected] of Object.entries(row.cmsg.CMSG_SPACE)) {
      assertEquals(space(Number(size)), expected);
    }
  });
}

for (const system of ["linux_x86_64", "linux_aarch64"] as const) {
  Deno.test(`every constant of ${system} has the value of its header`, () => {
    const known: Record<string, number> = { ...c, ...errnos };
    for (const [name, value] of Object.entries(layouts[system].constants)) {
      assertEquals([name, known[name]], [name, value]);
    }
  });
}

/** A value of which no byte is zero. */
function full(field: unknown): never {
  const value = () => {
    if (field === "pointer") return new Uint8Array(1);
    if (typeof field === "string") {
      return /64/.test(field) ? -1n : -1;
    }
    if ("bytes" in (field as object)) {
      return new Uint8Array((field as { bytes: number }).bytes).fill(255);
    }
    const { fields } = field as { fields: Record<string, unknown> };
    return Object.fromEntries(Object.entries(fields).map(([name, kind]) => [name, full(kind)]));
  };
  return value() as never;
}

Deno.test("pack() puts every kind of value where read() finds it, and zeroes the rest", () => {
  const inner = struct({ a: "u8", b: "u16be" });
  const layout = struct({
    flag: "u8",
    count: "u64",
    signed: "i32",
    small: "i16",
    size: "usize",
    address: "u32be",
    inner,
    name: bytes(3),
  });
  const packed = layout.pack({
    flag: 200,
    count: 2n ** 63n,
    signed: -2,
    small: -3,
    size: 4096,
    address: 0x7f000001,
    inner: { a: 1, b: 0x1234 },
    name: Uint8Array.of(7, 8),
  });
  assertEquals(packed.length, layout.size);
  assertEquals(layout.read(packed, "flag"), 200);
  assertEquals(layout.read(packed, "count"), 2n ** 63n);
  assertEquals(layout.read(packed, "signed"), -2);
  assertEquals(layout.read(packed, "small"), -3);
  assertEquals(layout.read(packed, "size"), 4096);
  assertEquals(layout.read(packed, "address"), 0x7f000001);
  assertEquals(packed[layout.offset("address")], 0x7f);
  assertEquals([...layout.read(packed, "inner")], [1, 0, 0x12, 0x34]);
  assertEquals([...layout.read(packed, "name")], [7, 8, 0]);
  assertEquals([...packed.subarray(1, 8)], [0, 0, 0, 0, 0, 0, 0]);
});

Deno.test("pack() refuses an unknown field, bytes that do not fit and a pointer without addresses", () => {
  const layout = struct({ name: bytes(2), at: "pointer" });
  assertThrows(() => layout.pack({ nam: Uint8Array.of(1) } as never), TypeError, `"nam"`);
  assertThrows(() => layout.pack({ name: new Uint8Array(3) }), RangeError, `"name"`);
  assertThrows(() => layout.pack({ at: new Uint8Array(1) }), TypeError, `"at"`);
});

Deno.test("a packed struct keeps the buffers of its pointers alive, through nesting too", async () => {
  const layout = struct({ at: "pointer" });
  const outer = struct({ inner: layout });
  const address = () => 1n;
  let collected = 0;
  const registry = new FinalizationRegistry(() => collected++);
  function make(keep: boolean): Uint8Array | undefined {
    const target = new Uint8Array(1 << 16);
    registry.register(target, 0);
    const packed = outer.pack({ inner: { at: target } }, address);
    return keep ? packed : undefined;
  }
  const kept = Array.from({ length: 20 }, () => make(true));
  for (let i = 0; i < 20; i++) make(false);
  for (let round = 0; round < 500 && collected < 20; round++) {
    // Garbage, so that the collector has a reason to run.
    new Array(100_000).fill({});
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assertEquals([kept.length, collected], [20, 20]);
});
