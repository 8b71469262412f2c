/**
 * Sockets that cannot be handed over: the next generation fails, its predecessor goes on, and the error has the reason.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { answerAt, auto, firstAnswerAt, Preloaded } from "../support/preloaded.ts";

const server = (port: number) =>
  `Deno.serve({ hostname: "127.0.0.1", port: ${port}, onListen() {} }, () => new Response(String(Deno.pid)));\n`;

/** Restarts a program that cannot be; gives the error. */
async function failedRestart(service: Preloaded, port: number): Promise<string> {
  const first = await firstAnswerAt(port);
  const { code, stderr } = await service.restart();
  assertEquals(code, 1);
  assertEquals(await answerAt(port), first);
  return stderr;
}

test("a worker's socket: its address is in use for the next generation", async () => {
  using directory = new Directory();
  const [port, other] = [freePort(), freePort()];
  const worker = `data:text/javascript,
    Deno.serve({ hostname: "127.0.0.1", port: ${other}, onListen() { postMessage(1); } }, () => new Response("worker"));`;
  const source = `
    const worker = new Worker(${JSON.stringify(worker)}, { type: "module" });
    await new Promise((resolve) => worker.onmessage = resolve);
    ${server(port)}`;
  await using service = new Preloaded(directory, source);
  assertMatch(await failedRestart(service, port), /Address already in use/);
  assertEquals(await answerAt(other), "worker");
});

test("a socket of node:dgram: its address is in use for the next generation", async () => {
  using directory = new Directory();
  const [port, other] = [freePort(), freePort()];
  const source = `import dgram from "node:dgram";
    const socket = dgram.createSocket("udp4");
    socket.on("error", (error) => { throw error; });
    await new Promise((resolve) => socket.bind(${other}, "127.0.0.1", resolve));
    ${server(port)}`;
  await using service = new Preloaded(directory, source);
  assertMatch(await failedRestart(service, port), /EADDRINUSE|Address already in use/);
});

test("--inspect with a fixed port: it is in use for the next generation", async () => {
  using directory = new Directory();
  const [port, inspector] = [freePort(), freePort()];
  await using service = new Preloaded(directory, server(port), {
    deno: ["run", "-A", `--inspect=127.0.0.1:${inspector}`, "--preload", auto],
  });
  assertMatch(await failedRestart(service, port), /[Aa]ddress.* in use/);
});

test("an inherited listener that the program asks for after the probation was closed, and the log says so", async () => {
  using directory = new Directory();
  const [port, late] = [freePort(), freePort()];
  const source = (wait: string) =>
    `${server(port)} ${wait} ${server(late)} console.log("late: " + Deno.pid);`;
  await using service = new Preloaded(directory, source(""), {
    env: { GRACEFUL_SETTLE: "10", GRACEFUL_PROBATION: "50" },
  });
  await service.until(/^late: /);
  const go = directory.join("go");
  Deno.writeTextFileSync(
    service.main,
    source(
      `while (!await Deno.stat(${
        JSON.stringify(go)
      }).catch(() => {})) await new Promise((r) => setTimeout(r, 20));`,
    ),
  );
  const pid = await service.next();
  Deno.writeTextFileSync(go, "");
  await service.until(`late: ${pid}`);
  assertEquals(await answerAt(late), String(pid));
  Deno.kill(pid, "SIGTERM");
  const { stderr } = await service.ended();
  assertMatch(stderr, new RegExp(`has not asked for: the listener at 127.0.0.1:${late}`));
  assertMatch(stderr, /GRACEFUL_PROBATION|GRACEFUL_READY/);
});

test("a program that calls start() itself is told that the preload module has done that", async () => {
  using directory = new Directory();
  const library = new URL("../../mod.ts", import.meta.url);
  const source = `import { start } from "${library}";
    const app = await start(${JSON.stringify(directory.join("own.sock"))});
    await app.ready();
    console.log("ready");`;
  await using told = new Preloaded(directory, source);
  const { code, stderr } = await told.ended();
  assertEquals(code, 1);
  assertMatch(stderr, /run the program without `--preload`, or with GRACEFUL=off/);
  await using alone = new Preloaded(directory, source, { env: { GRACEFUL: "off" } });
  await alone.until("ready");
});
