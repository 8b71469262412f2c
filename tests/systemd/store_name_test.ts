import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  isStoreName,
  parseStoreName,
  type StoredSocket,
  storeName,
} from "../../lib/systemd/store_name.ts";

/** What systemd takes as a name: more bytes, or a ":", and it calls the descriptor "stored". */
const legal = /^[\x21-\x39\x3b-\x7e]{1,255}$/;

/** Names a socket; checks the characters. */
function named(socket: StoredSocket): string {
  const name = storeName(socket);
  assertMatch(name, legal);
  assert(isStoreName(name));
  return name;
}

const sockets: StoredSocket[] = [
  { kind: "listener", key: "0.0.0.0 8000" },
  { kind: "listener", key: ":: 8000", name: "web" },
  { kind: "listener", key: "127.0.0.1 8000 reusePort" },
  { kind: "datagram", key: "::1 53", name: "a:b&c=d e+f%20" },
  { kind: "datagram", key: "unix /run/app/a b:c.sock" },
  { kind: "listener", key: "unix \0abstract\n", name: "ä€😀" },
  { kind: "listener", key: "", name: "" },
];

for (const socket of sockets) {
  Deno.test(`the name of ${JSON.stringify(socket)} is read as the same`, () => {
    assertEquals(parseStoreName(named(socket)), { key: undefined, name: undefined, ...socket });
  });
}

Deno.test("the names of different sockets are different", () => {
  assertEquals(new Set(sockets.map(storeName)).size, sockets.length);
});

Deno.test("a name has 255 bytes at most: the key is left out first", () => {
  const [kind, name] = ["listener", "web"] as const;
  const room = 255 - storeName({ kind, key: "", name }).length;
  const longest = { kind, key: "k".repeat(room), name };
  assertEquals(named(longest).length, 255);
  assertEquals(parseStoreName(named(longest)), longest);
  const longer = { ...longest, key: `${longest.key}k` };
  assertEquals(parseStoreName(named(longer)), { kind, name, key: undefined });
  // A character of three bytes is nine in the name.
  const wide = named({ kind, key: "€".repeat(30), name: "web" });
  assertEquals(parseStoreName(wide), { kind, name, key: undefined });
});

Deno.test("a socket whose key and name are both too long is known by its kind", () => {
  const long = "n".repeat(250);
  for (const kind of ["listener", "datagram"] as const) {
    const known = { kind, key: undefined, name: undefined };
    assertEquals(parseStoreName(named({ kind, key: "0.0.0.0 1", name: long })), known);
    assertEquals(parseStoreName(named({ kind, key: long, name: long })), known);
    assertEquals(parseStoreName(named({ kind, key: long })), known);
  }
});

Deno.test("names of others are not read", () => {
  const others = [
    "",
    "stored",
    "unknown",
    "app.socket",
    "graceful",
    "graceful-app",
    "gracefully?kind=listener",
  ];
  for (const name of others) {
    assertEquals([isStoreName(name), parseStoreName(name)], [false, undefined], name);
  }
  // Of ours, but of no kind that this version knows.
  for (const name of ["graceful?", "graceful?kind=file&key=x", "graceful?key=x", "graceful?%"]) {
    assertEquals(parseStoreName(name), undefined, name);
  }
});
