import { assertEquals, assertInstanceOf, assertStrictEquals, assertThrows } from "@std/assert";
import { GobError } from "../../lib/errors.ts";
import { Meta, metaBytes, type MetaLike } from "../../lib/wire/meta.ts";

Deno.test("new Meta() is a map of an object's properties, of entries, or empty", () => {
  assertEquals([...new Meta()], []);
  assertEquals([...new Meta({ name: "http", port: 8000 })], [["name", "http"], ["port", 8000]]);
  assertEquals([...new Meta([["name", "http"]])], [["name", "http"]]);
  assertEquals([...new Meta(new Map([["port", 8000]]))], [["port", 8000]]);
  assertInstanceOf(new Meta(), Map);
});

Deno.test("Meta.from() decodes the bytes of encode()", () => {
  const meta = new Meta({ name: "http", port: 8000, tags: ["a"], limits: { open: null } });
  const read = Meta.from(meta.encode());
  assertInstanceOf(read, Meta);
  assertEquals(read, meta);
});

Deno.test("Meta.from() throws an error of its own when no meta was sent", () => {
  for (const none of [null, new Uint8Array()]) {
    assertThrows(() => Meta.from(none), GobError, "none was sent");
  }
});

Deno.test("Meta.from() refuses bytes that are not a gob", () => {
  assertThrows(() => Meta.from(new TextEncoder().encode("http")), GobError, "at byte 0");
});

Deno.test("Meta.encode() names a value without a Go type", () => {
  const meta = new Meta({ when: new Date() as unknown as string });
  assertThrows(() => meta.encode(), TypeError, `Cannot encode meta["when"]: an instance of Date`);
});

Deno.test("Meta keeps a key called __proto__", () => {
  const object = Object.fromEntries([["__proto__", 1]]);
  assertEquals([...Meta.from(new Meta(object).encode())], [["__proto__", 1]]);
  assertEquals(JSON.stringify(new Meta(object)), `{"__proto__":1}`);
});

Deno.test("JSON.stringify() accepts a Meta with values of every kind", () => {
  const meta = new Meta({
    name: "http",
    id: 2n ** 64n - 1n,
    key: new Uint8Array([1, 255]),
    more: { list: [1n, null, true, 1.5] },
  });
  assertEquals(
    JSON.stringify(meta),
    `{"name":"http","id":"18446744073709551615","key":[1,255],"more":{"list":["1",null,true,1.5]}}`,
  );
});

Deno.test("metaBytes() returns bytes unchanged, and no bytes for null", () => {
  const bytes = new Uint8Array([1, 2, 3]);
  assertStrictEquals(metaBytes(bytes), bytes);
  assertEquals(metaBytes(null), new Uint8Array());
  assertEquals(metaBytes(undefined), new Uint8Array());
});

Deno.test("metaBytes() calls encode() of a Meta or of another object", () => {
  const meta = new Meta({ name: "http" });
  assertEquals(metaBytes(meta), meta.encode());
  assertEquals(metaBytes({ encode: () => new Uint8Array([7]) }), new Uint8Array([7]));
});

Deno.test("metaBytes() names the kind of a value that is not a MetaLike", () => {
  const refused: [unknown, string][] = [
    ["http", "Cannot send a string as a meta"],
    [7, "Cannot send a number as a meta"],
    [{ name: "http" }, "Cannot send an instance of Object as a meta"],
    [new Map(), "Cannot send an instance of Map as a meta"],
    [[1, 2], "Cannot send an instance of Array as a meta"],
    [{ encode: () => "http" }, "its encode() returned a string, not bytes"],
  ];
  for (const [value, message] of refused) {
    assertThrows(() => metaBytes(value as MetaLike), TypeError, message);
  }
});
