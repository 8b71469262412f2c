/**
 * Handlers, senders and callbacks that fail, between Deno and Go.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  type Handler,
  listen,
  listenAndServe,
  receive,
  receiveAllFrom,
  UnexpectedEofError,
} from "../../mod.ts";
import { test } from "../support/guard.ts";
import { until } from "../support/until.ts";
import { text } from "./bytes.ts";
import { Files, nameOf } from "./files.ts";
import { GoPeer, withGo, withLibrary } from "./go_peer.ts";

test("Go's client returns an error when a handler throws", withGo, async (t) => {
  using files = new Files();
  await using go = await GoPeer.start();
  const handlers: Record<string, { handler: Handler; delivered: number }> = {
    "at once": {
      handler: () => {
        throw new Error("no descriptor");
      },
      delivered: 0,
    },
    "with descriptors written and not sent": {
      handler: async (_, response) => {
        await response.write(0);
        throw new Error("half-way");
      },
      delivered: 0,
    },
    "with descriptors sent": {
      handler: async (_, response) => {
        await response.write(0, text("whole"));
        await response.flush();
        throw new Error("half-way");
      },
      delivered: 1,
    },
  };
  for (const [name, { handler, delivered }] of Object.entries(handlers)) {
    await t.step(name, async () => {
      await using server = listenAndServe(files.join("deno.sock"), handler, { logger: {} });
      const { records, error } = await go.attempt({ do: "receive", path: server.addr.path });
      assertEquals(records.length, delivered);
      assert(error, "Go's client accepted a response that is not whole");
    });
  }
});

test("receiveAllFrom() throws when Go ends inside a message", withGo, async (t) => {
  const endings: Record<string, (go: GoPeer) => Promise<void>> = {
    "by being killed": (go) => go.kill(),
    "by closing": async (go) => void await go.ask({ do: "close", name: "over" }),
  };
  for (const [name, end] of Object.entries(endings)) {
    await t.step(name, async () => {
      using files = new Files();
      await using go = await GoPeer.start();
      await go.ask({ do: "open", kind: "file", name: "file", at: files.join("a") });
      using listener = listen(files.join("deno.sock"));
      await go.ask({ do: "open", kind: "unix connection", name: "over", at: listener.addr.path });
      using conn = await listener.accept();
      // A record, and half of the next with its descriptor.
      const data = `01000000ab${"14000000"}${"00".repeat(10)}`;
      const both = [{ name: "file" }, { name: "file" }];
      await go.ask({ do: "message", over: "over", data, items: both });
      const received: unknown[] = [];
      const receiving = assertRejects(
        () => receiveAllFrom(conn, (fd, meta) => void received.push([nameOf(fd), meta])),
        UnexpectedEofError,
        "after 10 of the 20 bytes",
      );
      await until(() => received.length === 1);
      await end(go);
      await receiving;
      assertEquals(received, [["a", new Uint8Array([0xab])]]);
      // The guard checks that the descriptor of the second record is closed.
    });
  }
});

test(
  "receive() throws for a meta that the Go library has cut, and returns no shorter meta",
  withLibrary,
  async () => {
    using files = new Files();
    await using go = await GoPeer.start();
    await go.ask({ do: "open", kind: "file", name: "file", at: files.join("a") });
    const path = files.join("go.sock");
    // The library checks the length of each part that gob writes, not of the whole.
    const meta = { text: ["string", "x".repeat(4060)] };
    await go.ask({ do: "serve", name: "server", path, items: [{ name: "file", meta }] });
    await assertRejects(() => receive(path, () => {}), UnexpectedEofError);
    // The library's own client accepts the shortened meta.
    const { records, error } = await go.attempt({ do: "receive", path });
    assertEquals([records.length, records[0]?.meta?.length, error], [1, 2 * 4092, undefined]);
  },
);

test("an error of Go's callback ends its receive, and no other client's", withGo, async () => {
  using files = new Files();
  await using go = await GoPeer.start();
  await using server = listenAndServe(files.join("deno.sock"), async (_, response) => {
    for (let i = 0; i < 600; i++) await response.write(files.kept("a"), text(`${i}`));
  }, { logger: {} });
  for (let i = 0; i < 3; i++) {
    const { records, error } = await go.attempt({
      do: "receive",
      path: server.addr.path,
      refuse: 300,
    });
    assertEquals([records.length, error], [300, "the callback refuses"]);
  }
  const { records } = await go.ask({ do: "receive", path: server.addr.path });
  assertEquals(records.length, 600);
});
