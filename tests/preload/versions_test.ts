/**
 * Preloaded programs on other versions of Deno: node's servers from 2.8 on, Deno's own from 2.4 on.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { installDeno } from "../support/deno_versions.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { askOnce } from "../support/http1_client.ts";
import { Load } from "../support/load.ts";
import { answerAt, auto, firstAnswerAt, Preloaded } from "../support/preloaded.ts";

const ofDeno = (port: number) =>
  `Deno.serve({ hostname: "127.0.0.1", port: ${port}, onListen() {} }, () => new Response(String(Deno.pid)));`;

const ofNode = (port: number) =>
  `import { createServer } from "node:http";
  const server = createServer((_request, response) => response.end(String(Deno.pid)));
  server.listen(${port}, "127.0.0.1", () => console.log("listening"));`;

for (const version of ["2.4.4", "2.6.8", "2.7.14", "2.8.3"]) {
  const runtime = await installDeno(version);
  const ignore = "skipped" in runtime;
  if (ignore) console.log(`Deno ${version} is not tested: ${runtime.skipped}`);
  for (const [kind, source] of Object.entries({ "Deno.serve": ofDeno, "node:http": ofNode })) {
    const isOld = kind === "node:http" && !version.startsWith("2.8");
    const name = isOld ? "says that it takes 2.8" : "is restarted without a lost request";
    test(`a program with ${kind} on Deno ${version} ${name}`, { ignore }, async () => {
      if ("skipped" in runtime) return;
      using directory = new Directory();
      const port = freePort();
      await using service = new Preloaded(directory, source(port), {
        program: runtime.command,
        deno: ["run", "-A", "--preload", auto],
      });
      const first = await firstAnswerAt(port);
      const load = new Load({ transport: "tcp", hostname: "127.0.0.1", port });
      await load.more(10);
      if (!isOld) {
        const pid = await service.next();
        assertEquals(await answerAt(port), String(pid));
        await load.more(10);
        assertEquals(await load.stop(), 0, JSON.stringify([...load.failures]));
        return;
      }
      const { code } = await service.restart();
      assertEquals(code, 1);
      await load.more(10);
      assertEquals(await load.stop(), 0, JSON.stringify([...load.failures]));
      assertEquals(await answerAt(port), first);
      Deno.kill(service.pid, "SIGKILL");
      assertMatch(
        (await service.ended()).stderr,
        new RegExp(`stays with this process: it takes Deno 2.8 or later .* this is ${version}`),
      );
    });
  }
}

for (const version of ["2.6.8", "2.7.14"]) {
  const old = await installDeno(version);
  const ignore = "skipped" in old;
  test(`listenNode() and drain() on Deno ${version} name the version that they take`, {
    ignore,
  }, async () => {
    if ("skipped" in old) return;
    using directory = new Directory();
    const library = new URL("../../mod.ts", import.meta.url).href;
    const source = `import { createServer } from "node:http";
    import { drain, start } from ${JSON.stringify(library)};
    const app = await start(${JSON.stringify(directory.join("app.sock"))});
    const server = createServer();
    for (const call of [() => app.listenNode(server, { port: 0 }), () => drain(server)]) {
      try {
        await call();
      } catch (error) {
        console.log(error.name + ": " + error.message);
      }
    }
    await app.stop();`;
    await using service = new Preloaded(directory, source, {
      program: old.command,
      deno: ["run", "-A"],
    });
    const { stdout } = await service.ended();
    const error =
      "UnsupportedRuntimeError: Cannot hand over a server of node: it takes Deno 2.8 or " +
      `later, and this is ${version}`;
    assertEquals(stdout, [error, error]);
  });
}

const before = await installDeno("2.8.2");

test("a server of node at a unix path on Deno 2.8.2 says that it takes 2.8.3, and serves", {
  ignore: "skipped" in before,
}, async () => {
  if ("skipped" in before) return;
  using directory = new Directory();
  const path = directory.join("http.sock");
  const source = `import { createServer } from "node:http";
    createServer((_request, response) => response.end("served")).listen(${
    JSON.stringify(path)
  }, () => {
      console.log("listening");
    });`;
  await using service = new Preloaded(directory, source, { program: before.command });
  await service.until("listening");
  assertEquals((await askOnce({ transport: "unix", path })).body, "served");
  Deno.kill(service.pid, "SIGTERM");
  assertMatch(
    (await service.ended()).stderr,
    /http.sock, and stays with this process: it takes Deno 2.8.3/,
  );
});
