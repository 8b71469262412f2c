/**
 * The examples of generations: started as a user does, and restarted while clients use them.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { Pool } from "undici";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { freePort, reachable } from "../support/free_port.ts";
import { succeeds } from "../support/succeeds.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";
import { Example } from "./example.ts";

const nginx = await succeeds(["nginx", "-v"]);
if (!nginx) {
  console.log("examples_test.ts: the service behind nginx is not tested: nginx is not installed");
}

/** Keep-alive clients that never repeat a request, and record every failure. */
class Load {
  readonly failures: string[] = [];
  readonly answers = new Set<string>();
  answered = 0;
  readonly #pool: Pool;
  readonly #clients: Promise<void>[];
  #stopped = false;

  constructor(origin: string, { clients = 8, path = "/" } = {}) {
    this.#pool = new Pool(origin, { connections: clients, pipelining: 1 });
    this.#clients = Array.from({ length: clients }, async () => {
      while (!this.#stopped) {
        try {
          const { statusCode, body } = await this.#pool.request({ path, method: "GET" });
          const text = await body.text();
          if (statusCode !== 200) throw new Error(`status ${statusCode}`);
          this.answers.add(text);
          this.answered++;
        } catch (error) {
          this.failures.push(String(error));
        }
      }
    });
  }

  /** Waits until 200 more requests are answered. */
  async goesOn(): Promise<void> {
    const before = this.answered;
    await until(() => this.answered > before + 200);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#clients);
    await this.#pool.close();
  }
}

test("the Hono example is restarted under load, and no request fails", async () => {
  using directory = new Directory();
  const env = { CONTROL: directory.join("hono.sock"), PORT: "0" };
  await using example = new Example("hono/main.ts", [], env);
  let { child, line } = await example.start();
  const origin = line.split(" at ")[1];
  const load = new Load(origin);
  for (let i = 0; i < 2; i++) {
    await load.goesOn();
    const next = await example.start();
    assertEquals(next.line, `process ${next.child.pid} at ${origin}`);
    await load.goesOn();
    assertEquals((await child.ended()).code, 0);
    child = next.child;
  }
  await load.goesOn();
  await load.stop();
  assertEquals(load.failures, []);
  assertEquals(load.answers.size, 3, "each generation has answered");
  const stored = await fetch(`${origin}/notes`, { method: "POST", body: `{"a":1}` });
  assertEquals([stored.status, await stored.json()], [201, { stored: { a: 1 } }]);
  Deno.kill(child.pid, "SIGTERM");
  assertEquals((await child.ended()).code, 0);
});

/** A client of the chat, which does what the script of the page does. */
class ChatClient {
  readonly received: string[] = [];
  readonly codes: number[] = [];
  #socket!: WebSocket;
  #isClosed = false;

  constructor(readonly origin: string) {
    this.#connect();
  }

  #connect(): void {
    const socket = new WebSocket(`${this.origin}/?from=${this.received.length}`);
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      const { number, text } = JSON.parse(data);
      assertEquals(number, this.received.length, "each message arrives once, in order");
      this.received.push(text);
    };
    socket.onclose = ({ code }) => {
      this.codes.push(code);
      if (!this.#isClosed) setTimeout(() => this.#connect(), 5);
    };
  }

  /** Sends a message, and waits until it comes back: that is the acknowledgement. */
  async send(text: string): Promise<void> {
    await until(() => this.#socket.readyState === WebSocket.OPEN);
    this.#socket.send(text);
    await until(() => this.received.includes(text));
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const before = this.codes.length;
    await until(() => this.#socket.readyState === WebSocket.OPEN);
    this.#socket.close(1000);
    await until(() => this.codes.length > before);
  }
}

test("the chat example moves its clients with code 1012, and each gets every message once", async () => {
  using directory = new Directory();
  const args = ["--control", directory.join("chat.sock"), "--log", directory.join("chat.log")];
  args.push("--port", "0", "--drain-timeout", "600", "--probation", "50");
  await using example = new Example("chat.ts", args);
  let { child, line } = await example.start();
  const clients = Array.from({ length: 4 }, () => new ChatClient(line.split(" at ")[1]));
  const sent: string[] = [];
  async function talk(round: string): Promise<void> {
    for (const [i, client] of clients.entries()) {
      sent.push(`${round}, client ${i}`);
      await client.send(sent.at(-1)!);
    }
  }
  for (let generation = 2; generation <= 4; generation++) {
    await talk(`before ${generation}`);
    const next = await example.start();
    await talk(`with ${generation} beside`);
    assertEquals((await child.ended()).code, 0);
    await until(() => clients.every(({ codes }) => codes.length === generation - 1));
    await talk(`after ${generation}`);
    child = next.child;
  }
  await until(() => clients.every(({ received }) => received.length === sent.length));
  for (const { received, codes } of clients) {
    assertEquals(received, sent);
    assertEquals(codes, [1012, 1012, 1012]);
  }
  assertMatch(await (await fetch(line.split(" at ")[1])).text(), /<title>Chat<\/title>/);
  for (const client of clients) await client.close();
  Deno.kill(child.pid, "SIGTERM");
  assertEquals((await child.ended()).code, 0);
});

test(
  "the example behind nginx is restarted under load: no request fails, and its path always exists",
  {
    ignore: !nginx,
  },
  async () => {
    using directory = new Directory();
    const socket = directory.join("app.sock");
    const env = { CONTROL: directory.join("app.control"), SOCKET: socket };
    const port = freePort();
    const config = Deno.readTextFileSync(
      new URL("../../examples/behind_nginx/nginx.conf", import.meta.url),
    );
    // The workers of nginx run as another user, which has to reach the socket.
    Deno.chmodSync(directory.path, 0o755);
    Deno.writeTextFileSync(
      directory.join("nginx.conf"),
      config.replace("/tmp/app.sock", socket).replace("127.0.0.1:8080", `127.0.0.1:${port}`),
    );
    await using example = new Example("behind_nginx/main.ts", [], env);
    let { child } = await example.start();
    const server = new Deno.Command("nginx", {
      args: ["-p", directory.path, "-c", directory.join("nginx.conf")],
      stderr: "piped",
    }).spawn();
    try {
      await until(() => reachable(port));
      let missing = 0;
      let probes = 0;
      const probing = setInterval(() => {
        probes++;
        try {
          Deno.lstatSync(socket);
        } catch {
          missing++;
        }
      }, 1);
      const load = new Load(`http://127.0.0.1:${port}`);
      for (let i = 0; i < 2; i++) {
        await load.goesOn();
        const next = await example.start();
        await load.goesOn();
        assertEquals((await child.ended()).code, 0);
        child = next.child;
      }
      await load.goesOn();
      await load.stop();
      clearInterval(probing);
      assertEquals(load.failures, []);
      assertEquals(load.answers.size, 3);
      assertEquals(missing, 0);
      assert(probes > 100);
    } finally {
      server.kill("SIGTERM");
      await server.output();
    }
    Deno.kill(child.pid, "SIGTERM");
    assertEquals((await child.ended()).code, 0);
    assert(!directory.names().includes("app.sock"));
  },
);

test("the examples print their usage, and exit with 2 for unknown flags and wrong values", async () => {
  for (const file of ["chat.ts", "echo.ts"]) {
    const help = await run(file, "--help");
    assertEquals(help.code, 0);
    assertMatch(help.text, /\nUsage: /);
    const wrong = [
      "--what",
      "--port=soon",
      "--port=65536",
      "--port=",
      "--port=-1",
      "--probation=-1",
    ];
    if (file === "chat.ts") wrong.push("--drain-timeout=1.5");
    for (const argument of wrong) {
      const { code, text } = await run(file, argument);
      assertEquals(code, 2, argument);
      assertMatch(text, new RegExp(`${argument.split("=")[0]}.*\n\nA [^]*\nUsage: `));
    }
  }
  const configured = [
    ["hono/main.ts", "PORT"],
    ["behind_nginx/main.ts", "SOCKET"],
    ["behind_haproxy/main.ts", "PORT"],
  ];
  for (const [file, variable] of configured) {
    for (const [argument, code] of [["--help", 0], ["--what", 2]] as const) {
      const ended = await run(file, argument);
      assertEquals(ended.code, code);
      assertMatch(ended.text, new RegExp(`^CONTROL is .*, ${variable} `));
    }
  }
});

async function run(file: string, ...args: string[]): Promise<{ code: number; text: string }> {
  await using child = new Child(`../../examples/${file}`, args);
  const { code, stdout, stderr } = await child.ended();
  return { code, text: stdout.join("\n") + stderr };
}
