/**
 * A listener that Deno and Go serve at the same time.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { listenerDescriptor } from "../../lib/native/descriptor.ts";
import { type Fd, listenAndServe, listenerHandler, receive } from "../../mod.ts";
import { Child } from "../support/child.ts";
import { test } from "../support/guard.ts";
import { until } from "../support/until.ts";
import { hex, text } from "./bytes.ts";
import { Files } from "./files.ts";
import { Load } from "./go_load.ts";
import { GoPeer, portOf, withGo } from "./go_peer.ts";

test("Deno serves a listener that a Go process keeps making blocking", withGo, async (t) => {
  const endings: Record<string, (go: GoPeer) => Promise<void>> = {
    exits: (go) => go.exit(),
    "is killed": (go) => go.kill(),
  };
  for (const [name, end] of Object.entries(endings)) {
    await t.step(`and Go then ${name}`, async () => {
      using files = new Files();
      await using go = await GoPeer.start();
      const { local } = await go.ask({ do: "open", kind: "tcp listener", name: "http" });
      const path = files.join("go.sock");
      await go.ask({ do: "serve", name: "server", path, items: [{ name: "http" }] });
      await using deno = new Child("../peers/go/serve.ts", ["receive", path]);
      assertEquals(Number(await deno.line()), portOf(local!));
      await using load = new Load(portOf(local!));
      await load.awaitProgress(deno);
      await whileBlocking(go, "http", load, async () => {
        for (let i = 0; i < 3; i++) await load.awaitProgress(deno);
      });
      // A second client receives the listener too, and closes it.
      await receive(path, () => {});
      await load.connectAgain();
      await load.awaitProgress(deno);
      await go.ask({ do: "make blocking", name: "http" });
      await end(go);
      await load.connectAgain();
      await load.awaitProgress(deno);
      assertEquals(await load.stop(), []);
      await deno.tell("drain");
      assertEquals(await deno.line(), "drained");
    });
  }
});

test("Go serves a listener of Deno, beside Deno and after Deno has closed it", withGo, async () => {
  using files = new Files();
  await using go = await GoPeer.start();
  const path = files.join("deno.sock");
  await using deno = new Child("../peers/go/serve.ts", ["give", path]);
  const port = Number(await deno.line());
  await using load = new Load(port);
  await load.awaitProgress(deno);
  await go.ask({ do: "receive", path, keep: true });
  await go.ask({ do: "serve http", name: "r0", data: hex(text("Go")) });
  for (let i = 0; i < 3; i++) await load.awaitProgress(deno);
  await until(async () => {
    await load.connectAgain();
    return load.answers.has("Deno") && load.answers.has("Go");
  });
  await deno.tell("drain");
  assertEquals(await deno.line(), "drained");
  load.answers.clear();
  await load.awaitProgress();
  assertEquals([...load.answers], ["Go"]);
  assertEquals(await load.stop(), []);
});

test(
  "sending a listener keeps its socket non-blocking, unlike File() of a Go listener",
  withGo,
  async () => {
    using files = new Files();
    await using go = await GoPeer.start();
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    using fd = listenerDescriptor(listener);
    await using server = listenAndServe(files.join("deno.sock"), listenerHandler(listener));
    // Read before a listener is made of the descriptor: that sets the mode.
    const modes: boolean[] = [];
    await receive(server.addr.path!, (received) => void modes.push(isNonblocking(received)));
    assertEquals([...modes, isNonblocking(fd)], [true, true]);
    await go.ask({ do: "receive", path: server.addr.path, keep: true });
    await go.ask({ do: "make blocking", name: "r0" });
    assert(
      !isNonblocking(fd),
      "Go no longer changes the mode: the guard of it is not needed any more",
    );
  },
);

function isNonblocking({ raw }: Fd): boolean {
  const [, flags] = /^flags:\t(\d+)$/m.exec(Deno.readTextFileSync(`/proc/self/fdinfo/${raw}`))!;
  return (parseInt(flags, 8) & 0o4000) !== 0;
}

/** Runs `body` while Go makes a listener blocking again and again, and clients connect. */
async function whileBlocking(
  go: GoPeer,
  name: string,
  load: Load,
  body: () => Promise<void>,
): Promise<void> {
  let isDone = false;
  const blocking = (async () => {
    while (!isDone) {
      await go.ask({ do: "make blocking", name });
      await load.connectAgain();
    }
  })();
  try {
    await body();
  } finally {
    isDone = true;
    await blocking;
  }
}
