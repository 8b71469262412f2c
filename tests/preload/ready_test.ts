/**
 * When a preloaded generation is ready.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { Load } from "../support/load.ts";
import { answerAt, firstAnswerAt, Preloaded } from "../support/preloaded.ts";

const here = (port: number) => `{ hostname: "127.0.0.1", port: ${port}, onListen() {} }`;
const server = (port: number) =>
  `Deno.serve(${here(port)}, () => new Response(String(Deno.pid)));\n`;

test("three lines of Deno.serve are restarted without a lost request", async () => {
  using directory = new Directory();
  const port = freePort();
  await using service = new Preloaded(directory, server(port));
  const first = await firstAnswerAt(port);
  const load = new Load({ transport: "tcp", hostname: "127.0.0.1", port });
  const pids = [Number(first)];
  for (let i = 0; i < 3; i++) {
    await load.more(50);
    pids.push(await service.next());
  }
  await load.more(50);
  assertEquals(await load.stop(), 0, JSON.stringify([...load.failures]));
  assertEquals(Number(await answerAt(port)), pids.at(-1));
  assertEquals(new Set(pids).size, 4);
});

test("the program is the main module, has its arguments, and its end is the process's", async () => {
  using directory = new Directory();
  const source = `console.log(import.meta.main, JSON.stringify(Deno.args));`;
  await using program = new Preloaded(directory, source, { args: ["a b", "", "--watch"] });
  const { code, stdout, stderr } = await program.ended();
  assertEquals([code, stdout, stderr], [0, ['true ["a b","","--watch"]'], ""]);
  assertEquals(directory.names(), ["main.ts"], "the control path was removed");
});

test("the next generation is ready when it has asked for all that it has inherited", async () => {
  using directory = new Directory();
  const [one, other] = [freePort(), freePort()];
  const hold = directory.join("hold");
  const source = `${server(one)}
    while (await Deno.stat(${JSON.stringify(hold)}).catch(() => {})) {
      console.log("held");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    ${server(other)}`;
  await using service = new Preloaded(directory, source, { env: { GRACEFUL_SETTLE: "60000" } });
  const first = await firstAnswerAt(other);
  Deno.writeTextFileSync(hold, "");
  const restarted = service.restart();
  await service.until("held");
  assertEquals(await answerAt(one), first);
  assertEquals(await answerAt(other), first);
  Deno.removeSync(hold);
  const { code, stderr } = await restarted;
  assertEquals([code, stderr], [0, ""]);
  assertNotEquals(await answerAt(one), first);
  assertEquals(await answerAt(one), await answerAt(other));
});

test("a release that drops a listener is ready when no further one has come for some time", async () => {
  using directory = new Directory();
  const [one, other] = [freePort(), freePort()];
  await using service = new Preloaded(directory, server(one) + server(other), {
    env: { GRACEFUL_SETTLE: "50" },
  });
  await firstAnswerAt(other);
  Deno.writeTextFileSync(service.main, server(one));
  const pid = await service.next();
  assertEquals(Number(await answerAt(one)), pid);
  assertEquals((await service.status()).sockets.map(({ address }) => address), [
    `127.0.0.1:${one}`,
  ]);
});

test("a generation without a socket is never ready, and its predecessor goes on", async () => {
  using directory = new Directory();
  const port = freePort();
  await using service = new Preloaded(directory, server(port), {
    env: { GRACEFUL_READY_TIMEOUT: "1500", GRACEFUL_SETTLE: "10" },
  });
  const first = await firstAnswerAt(port);
  Deno.writeTextFileSync(service.main, "setInterval(() => {}, 1000);");
  const { code, stderr } = await service.restart();
  assertEquals(code, 1);
  assertMatch(stderr, /was not ready after 1500 ms/);
  assertEquals(await answerAt(port), first);
});

test("a release that throws fails the restart with its error, and the predecessor goes on", async () => {
  using directory = new Directory();
  const port = freePort();
  await using service = new Preloaded(directory, server(port));
  const first = await firstAnswerAt(port);
  Deno.writeTextFileSync(service.main, `throw new Error("no such table");`);
  const { code, stderr } = await service.restart();
  assertEquals(code, 1);
  assertMatch(stderr, /no such table/);
  assertEquals(await answerAt(port), first);
});

test("with GRACEFUL_READY=explicit the program itself says when it is ready", async () => {
  using directory = new Directory();
  const port = freePort();
  const hold = directory.join("hold");
  const source = `${server(port)}
    while (await Deno.stat(${JSON.stringify(hold)}).catch(() => {})) {
      console.log("held");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await globalThis[Symbol.for("graceful")].ready();
    console.log("said");`;
  await using service = new Preloaded(directory, source, {
    env: { GRACEFUL_READY: "explicit", GRACEFUL_SETTLE: "1" },
  });
  const first = await firstAnswerAt(port);
  await service.until("said");
  Deno.writeTextFileSync(hold, "");
  const restarted = service.restart();
  for (let i = 0; i < 5; i++) await service.until("held");
  assertEquals(await answerAt(port), first);
  Deno.removeSync(hold);
  assertEquals((await restarted).code, 0);
  assertNotEquals(await answerAt(port), first);
});

test("a listener that is closed and listened on again is the inherited one", async () => {
  using directory = new Directory();
  const port = freePort();
  const source = `
    const trial = Deno.listen(${here(port)});
    trial.close();
    const server = Deno.serve(${here(port)}, () => new Response("old"));
    await server.shutdown();
    ${server(port)}
    console.log("listening");`;
  await using service = new Preloaded(directory, source);
  await service.until("listening");
  const load = new Load({ transport: "tcp", hostname: "127.0.0.1", port });
  for (let i = 0; i < 2; i++) {
    await load.more(20);
    await service.next();
  }
  await load.more(20);
  assertEquals(await load.stop(), 0, JSON.stringify([...load.failures]));
});

test("a program that looks for a free port ends at the same one in each generation", async () => {
  using directory = new Directory();
  const port = freePort();
  const taken = Deno.listen({ hostname: "127.0.0.1", port });
  const source = `
    let port = ${port};
    for (;; port++) {
      try {
        Deno.serve({ hostname: "127.0.0.1", port, onListen() {} }, () => new Response(String(Deno.pid)));
        break;
      } catch (error) {
        if (!(error instanceof Deno.errors.AddrInUse)) throw error;
      }
    }
    console.log("port: " + port);`;
  await using service = new Preloaded(directory, source, { env: { GRACEFUL_SETTLE: "60000" } });
  const found = await service.number("port");
  assert(found > port);
  // The first port is free by now: a client knows the other one.
  taken.close();
  for (let i = 0; i < 2; i++) {
    await service.next();
    assertEquals(await service.number("port"), found);
  }
});

test("a program that asks for its address twice gets it in each generation, and AddrInUse the second time", async () => {
  using directory = new Directory();
  const port = freePort();
  const serve =
    `Deno.serve({ hostname: "127.0.0.1", port: ${port}, onListen() {} }, () => new Response("x"));`;
  const source =
    `${serve} try { ${serve} } catch (error) { console.log(error.name); console.error(error.message); }`;
  await using service = new Preloaded(directory, source);
  await service.until("AddrInUse");
  for (let i = 0; i < 2; i++) {
    await service.next();
    await service.until("AddrInUse");
    assertEquals(await answerAt(port), "x");
  }
  Deno.kill((await service.status()).pid, "SIGTERM");
  const { stderr } = await service.ended();
  assertMatch(stderr, /listens there already$/m);
});
