/**
 * The signals of a preloaded program, and the end of its process.
 *
 * @module
 */

import { assertEquals, assertMatch, assertNotEquals, assertRejects } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { Load } from "../support/load.ts";
import { answerAt, firstAnswerAt, Preloaded } from "../support/preloaded.ts";
import { soon } from "../support/until.ts";

const server = (port: number, handler = "() => new Response(String(Deno.pid))") =>
  `const server = Deno.serve({ hostname: "127.0.0.1", port: ${port}, onListen() {} }, ${handler});\n`;

/** Waits until another process than `pid` answers; gives its number. */
async function replaced(port: number, pid: number): Promise<number> {
  let answer = pid;
  await soon(async () => (answer = Number(await answerAt(port))) !== pid);
  return answer;
}

test("SIGHUP restarts a program that does not listen to it", async () => {
  using directory = new Directory();
  const port = freePort();
  await using service = new Preloaded(directory, server(port));
  const first = Number(await firstAnswerAt(port));
  const load = new Load({ transport: "tcp", hostname: "127.0.0.1", port });
  Deno.kill(first, "SIGHUP");
  const second = await replaced(port, first);
  await soon(async () => (await service.status()).predecessor === undefined);
  Deno.kill(second, "SIGHUP");
  await replaced(port, second);
  await load.more(20);
  assertEquals(await load.stop(), 0, JSON.stringify([...load.failures]));
});

test("SIGHUP is the program's own if it listens to it", async () => {
  using directory = new Directory();
  const port = freePort();
  await using service = new Preloaded(
    directory,
    `${server(port)} Deno.addSignalListener("SIGHUP", () => console.log("read again"));`,
  );
  const first = Number(await firstAnswerAt(port));
  Deno.kill(first, "SIGHUP");
  await service.until("read again");
  const { generation, pid } = await service.status();
  assertEquals([generation, pid], [1, first]);
});

test("SIGHUP does not restart a program whose stdin is a terminal", async () => {
  using directory = new Directory();
  const port = freePort();
  const through = ["python3", "-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"];
  await using _service = new Preloaded(directory, server(port), { through });
  const first = Number(await firstAnswerAt(port));
  Deno.kill(first, "SIGHUP");
  // The default action: the process ends.
  await soon(async () => {
    try {
      await answerAt(port);
      return false;
    } catch (error) {
      return error instanceof Deno.errors.ConnectionRefused;
    }
  });
});

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(`${signal} answers what is under way, and exits with 0`, async () => {
    using directory = new Directory();
    const port = freePort();
    const slow = `async () => {
      console.log("asked");
      await new Promise((resolve) => setTimeout(resolve, 300));
      return new Response("answered");
    }`;
    await using service = new Preloaded(directory, server(port, slow));
    await soon(async () =>
      await Deno.connect({ hostname: "127.0.0.1", port }).then(
        (conn) => (conn.close(), true),
        () => false,
      )
    );
    const answer = answerAt(port);
    await service.until("asked");
    Deno.kill(service.pid, signal);
    assertEquals(await answer, "answered");
    const { code, stderr } = await service.ended();
    assertEquals([code, stderr], [0, ""]);
    assertEquals(directory.names(), ["main.ts"]);
  });
}

for (
  const [how, listen] of [
    ["Deno.addSignalListener", `Deno.addSignalListener("SIGTERM", end);`],
    ["process.on", `process.on("SIGTERM", end);`],
  ]
) {
  test(`${how}: SIGTERM is the program's; a replaced program's listener is called when it has drained`, async () => {
    using directory = new Directory();
    const port = freePort();
    const source = `import process from "node:process";
      ${server(port)}
      const end = async () => {
        console.log("end " + Deno.pid);
        await server.shutdown();
        console.log("shut down " + Deno.pid);
        Deno.exit(3);
      };
      ${listen}`;
    await using service = new Preloaded(directory, source);
    const first = Number(await firstAnswerAt(port));
    const second = await service.next();
    await service.until(`end ${first}`);
    await service.until(`shut down ${first}`);
    assertEquals(Number(await answerAt(port)), second);
    Deno.kill(second, "SIGTERM");
    await service.until(`end ${second}`);
    await service.until(`shut down ${second}`);
    assertEquals((await service.ended()).stderr, "");
  });
}

for (
  const [what, setting] of [
    ["another form", "Error.prepareStackTrace = (_, frames) => frames;"],
    ["no frames", "Error.stackTraceLimit = 0;"],
  ]
) {
  test(`SIGTERM is the program's if stack traces have ${what} in it`, async () => {
    using directory = new Directory();
    const port = freePort();
    const source = `import process from "node:process";
      ${setting}
      process.on("SIGTERM", () => process.exit(3));
      console.log(typeof Error.prepareStackTrace, Error.stackTraceLimit);
      ${server(port)}`;
    await using service = new Preloaded(directory, source);
    await firstAnswerAt(port);
    await service.until(what === "no frames" ? /^\w+ 0$/ : /^function \d+$/);
    Deno.kill(service.pid, "SIGTERM");
    const { code, stderr } = await service.ended();
    assertEquals([code, stderr], [3, ""]);
  });
}

test("a program whose listener of SIGTERM does not end it is ended after GRACEFUL_EXIT_TIMEOUT, with a line in the log", async () => {
  using directory = new Directory();
  const port = freePort();
  const source = `${server(port)} setInterval(() => {}, 1000);
    Deno.addSignalListener("SIGTERM", () => console.log("no"));`;
  await using service = new Preloaded(directory, source, {
    env: { GRACEFUL_EXIT_TIMEOUT: "50" },
  });
  await firstAnswerAt(port);
  const second = await service.next();
  await service.until("no");
  Deno.kill(second, "SIGKILL");
  assertMatch((await service.ended()).stderr, /has not ended within 50 ms after its listeners/);
});

test("a replaced program ends though timers of its own run", async () => {
  using directory = new Directory();
  const port = freePort();
  await using service = new Preloaded(directory, `${server(port)} setInterval(() => {}, 1000);`);
  await firstAnswerAt(port);
  const second = await service.next();
  Deno.kill(second, "SIGTERM");
  const { code, stderr } = await service.ended();
  assertEquals([code, stderr], [0, ""]);
});

test("a handler that calls Deno.exit in the probation gives the service back", async () => {
  using directory = new Directory();
  const port = freePort();
  const handler = (last: string) =>
    `({ url }) => {
    if (url.endsWith("/exit")) Deno.exit(1);
    return new Response(String(Deno.pid) + ${last});
  }`;
  await using service = new Preloaded(directory, server(port, handler(`""`)), {
    env: { GRACEFUL_PROBATION: "60000" },
  });
  const first = await firstAnswerAt(port);
  const restarted = service.restart();
  await replaced(port, Number(first));
  await fetch(`http://127.0.0.1:${port}/exit`).catch(() => {});
  const { code, stderr } = await restarted;
  assertEquals(code, 1);
  assertMatch(stderr, /The restart failed/);
  await soon(async () => await answerAt(port) === first);
});

test("the command line stops a program, and its listener of SIGTERM is called when it has drained", async () => {
  using directory = new Directory();
  const port = freePort();
  const source = `${server(port)}
    Deno.addSignalListener("SIGTERM", () => { console.log("closed"); Deno.exit(0); });`;
  await using service = new Preloaded(directory, source);
  await firstAnswerAt(port);
  const { cli } = await import("../support/cli.ts");
  const { code } = await cli("stop", service.control);
  await service.until("closed");
  assertEquals(code, 0);
  assertNotEquals((await service.ended()).code, 1);
});

for (
  const [how, end] of [["Deno.exit", "Deno.exit(0)"], ["its last server", "server.shutdown()"]]
) {
  test(`SIGTERM in the probation ends the service, though the program itself ends by ${how}`, async () => {
    using directory = new Directory();
    const port = freePort();
    const source = `${server(port)} Deno.addSignalListener("SIGTERM", () => ${end});`;
    await using service = new Preloaded(directory, source, {
      env: { GRACEFUL_PROBATION: "60000" },
    });
    const first = Number(await firstAnswerAt(port));
    const restarted = service.restart();
    const second = await replaced(port, first);
    Deno.kill(second, "SIGTERM");
    const { code } = await service.ended();
    assertEquals(code, 0);
    await restarted;
    await assertRejects(() => answerAt(port), Deno.errors.ConnectionRefused);
  });
}

test("a program that ends by itself in the probation gives the service back", async () => {
  using directory = new Directory();
  const port = freePort();
  const handler = `({ url }) => {
    if (url.endsWith("/end")) server.shutdown();
    return new Response(String(Deno.pid), { headers: { connection: "close" } });
  }`;
  await using service = new Preloaded(directory, server(port, handler), {
    env: { GRACEFUL_PROBATION: "60000" },
  });
  const first = await firstAnswerAt(port);
  const restarted = service.restart();
  await replaced(port, Number(first));
  await (await fetch(`http://127.0.0.1:${port}/end`)).text();
  assertEquals((await restarted).code, 1);
  assertEquals(await answerAt(port), first);
});
