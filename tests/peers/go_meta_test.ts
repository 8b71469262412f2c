/**
 * Metas in both directions between Deno and Go: gobs by Go's encoding/gob, and any bytes.
 *
 * @module
 */

import { assertEquals, assertRejects } from "@std/assert";
import { listenAndServe, LongWriteError, Meta, type MetaValue, receive } from "../../mod.ts";
import { test } from "../support/guard.ts";
import { bytes, hex } from "./bytes.ts";
import { Files } from "./files.ts";
import { GoPeer, type GoValue, withGo } from "./go_peer.ts";

/** Values in Go and in Deno; `back` is the value that Go receives back, where it differs from `go`. */
const values: Record<string, { go: GoValue; deno: MetaValue; back?: GoValue }> = {
  int: { go: ["int", "-65"], deno: -65 },
  "the greatest safe int": { go: ["int", "9007199254740991"], deno: 9007199254740991 },
  "an int beyond the safe integers": {
    go: ["int", "9007199254740993"],
    deno: 9007199254740993n,
    back: ["int64", "9007199254740993"],
  },
  int8: { go: ["int8", "-128"], deno: -128, back: ["int", "-128"] },
  int16: { go: ["int16", "300"], deno: 300, back: ["int", "300"] },
  int32: { go: ["int32", "-70000"], deno: -70000, back: ["int", "-70000"] },
  int64: { go: ["int64", "-9223372036854775808"], deno: -9223372036854775808n },
  uint: { go: ["uint", "7"], deno: 7, back: ["int", "7"] },
  uint8: { go: ["uint8", "255"], deno: 255, back: ["int", "255"] },
  uint16: { go: ["uint16", "65535"], deno: 65535, back: ["int", "65535"] },
  uint32: { go: ["uint32", "4294967295"], deno: 4294967295, back: ["int", "4294967295"] },
  uint64: { go: ["uint64", "18446744073709551615"], deno: 18446744073709551615n },
  float32: { go: ["float32", "0.5"], deno: 0.5, back: ["float64", "0.5"] },
  float64: { go: ["float64", "-1.25"], deno: -1.25 },
  true: { go: ["bool", "true"], deno: true },
  false: { go: ["bool", "false"], deno: false },
  string: { go: ["string", "grüße, 世界"], deno: "grüße, 世界" },
  "the empty string": { go: ["string", ""], deno: "" },
  bytes: { go: ["[]uint8", "00ff10"], deno: new Uint8Array([0, 255, 16]) },
  strings: { go: ["[]string", ["a", "", "c"]], deno: ["a", "", "c"] },
  nil: { go: ["nil"], deno: null },
  "a map in a map": {
    go: ["map[string]interface {}", {
      port: ["int", "8080"],
      tags: ["[]string", ["x"]],
      deeper: ["map[string]interface {}", { none: ["nil"] }],
    }],
    deno: { port: 8080, tags: ["x"], deeper: { none: null } },
  },
  "a list": {
    go: ["[]interface {}", [["string", "a"], ["bool", "true"], ["int", "1"]]],
    deno: ["a", true, 1],
  },
};

test("a meta with a value of every kind arrives unchanged, from Go and to Go", withGo, async () => {
  using files = new Files();
  await using go = await GoPeer.start();
  await go.ask({ do: "open", kind: "file", name: "file", at: files.join("a") });
  const entries = Object.entries(values);
  const one = entries.map(([name, { go }]) => ({ [name]: go }));
  const all = Object.fromEntries(entries.map(([name, { go }]) => [name, go]));
  const path = files.join("go.sock");
  const items = [...one, all].map((meta) => ({ name: "file", meta }));
  await go.ask({ do: "serve", name: "server", path, items });

  const received: Meta[] = [];
  await receive(path, (_, meta) => void received.push(Meta.from(meta)));
  assertEquals(
    received.map((meta) => Object.fromEntries(meta)),
    [
      ...entries.map(([name, { deno }]) => ({ [name]: deno })),
      Object.fromEntries(entries.map(([name, { deno }]) => [name, deno])),
    ],
  );

  // Back to Go.
  await using server = listenAndServe(files.join("deno.sock"), async (_, response) => {
    for (const meta of received) await response.write(0, meta);
  });
  const { records } = await go.ask({ do: "receive", path: server.addr.path });
  assertEquals(records.map(({ values }) => values), [
    ...entries.map(([name, { go, back = go }]) => ({ [name]: back })),
    Object.fromEntries(entries.map(([name, { go, back = go }]) => [name, back])),
  ]);
});

test("a meta of any bytes arrives unchanged, from Go and to Go", withGo, async () => {
  using files = new Files();
  await using go = await GoPeer.start();
  await go.ask({ do: "open", kind: "file", name: "file", at: files.join("a") });
  const metas = [null, new Uint8Array(), bytes(1), bytes(20), null, bytes(4091), bytes(4092)];
  const items = metas.map((meta) => ({ name: "file", meta: meta && hex(meta) }));
  const path = files.join("go.sock");
  await go.ask({ do: "serve", name: "server", path, items });
  const received: (Uint8Array | null)[] = [];
  await receive(path, (_, meta) => void received.push(meta));
  // A null meta and an empty one are the same on the wire.
  assertEquals(received, metas.map((meta) => meta?.length === 0 ? null : meta));

  await using server = listenAndServe(files.join("deno.sock"), async (_, response) => {
    for (const meta of metas) await response.write(0, meta);
    await assertRejects(() => response.write(0, bytes(4093)), LongWriteError);
  });
  const { records } = await go.ask({ do: "receive", path: server.addr.path });
  assertEquals(
    records.map(({ meta }) => meta),
    metas.map((meta) => meta?.length ? hex(meta) : undefined),
  );
});
