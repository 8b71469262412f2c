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

const nginx = await succeeds(["nginx", "-v"]);
if (!nginx) {
  console.log("examples_test.ts: the service behind nginx is not tested: nginx is not installed");
}

/** An example; its generations are killed at the end of the block. */
class Example implements AsyncDisposable {
  readonly #children = new AsyncDisposableStack();

  constructor(
    readonly file: string,
    readonly args: string[],
    readonly env: Record<string, string> = {},
  ) {}

  /** Starts a generation; resolves when it serves, with the line that it has printed. */
  async start(): Promise<{ child: Child; line: string }> {
    const child = new Child(`../../examples/${this.file}`, this.args, { env: this.env });
    this.#children.use(child);
    for (;;) {
      const line = await child.line();
      if (/^(generation|process) \d+ at /.test(line)) return { child, line };
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#children.disposeAsync();
  }
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

test("the connections of the echo example move through restarts, and no byte is lost or doubled", async () => {
  using directory = new Directory();
  const args = ["--control", directory.join("echo.sock"), "--port", "0", "--probation", "50"];
  await using example = new Example("echo.ts", args);
  let { child, line } = await example.start();
  const port = Number(line.split("port ")[1]);
  const clients = await Promise.all(Array.from({ length: 10 }, () => EchoClient.connect(port)));
  for (let generation = 2; generation <= 7; generation++) {
    await Promise.all(clients.map((client) => client.goesOn()));
    const next = await example.start();
    assertMatch(next.line, new RegExp(`^generation ${generation} `));
    assertEquals((await child.ended()).code, 0);
    child = next.child;
  }
  await Promise.all(clients.map((client) => client.goesOn()));
  for (const client of clients) {
    await client.finish();
    assertEquals(client.generations.size, 7, "each generation has answered on the connection");
  }
  Deno.kill(child.pid, "SIGTERM");
  assertEquals((await child.ended()).code, 0);
});

test("the echo example answers every whole line when it is stopped, and closes the connections", async () => {
  using directory = new Directory();
  const args = ["--control", directory.join("echo.sock"), "--port", "0"];
  await using example = new Example("echo.ts", args);
  const { child, line } = await example.start();
  const address = { hostname: "127.0.0.1", port: Number(line.split("port ")[1]) };
  // An idle client, one in the middle of a line, and one that sends again and again.
  using idle = await Deno.connect(address);
  using halfway = await Deno.connect(address);
  await halfway.write(new TextEncoder().encode("whole\nhal"));
  const answer = new Uint8Array(100);
  assertEquals(await halfway.read(answer), "1 1 whole\n".length);
  using busy = await Deno.connect(address);
  const answers: string[] = [];
  const asking = askUntilTheEnd(busy, answers);
  await until(() => answers.length > 10);
  Deno.kill(child.pid, "SIGTERM");
  await asking;
  assertEquals(answers, answers.map((_, i) => `1 ${i + 1} line ${i + 1}`));
  assertEquals(await idle.read(answer), null);
  assertEquals(await halfway.read(answer), null);
  assertEquals((await child.ended()).code, 0);
});

/** Sends a line when the previous one is answered, until the peer closes; collects the answers. */
async function askUntilTheEnd(conn: Deno.Conn, answers: string[]): Promise<void> {
  const chunk = new Uint8Array(100);
  try {
    for (;;) {
      await conn.write(new TextEncoder().encode(`line ${answers.length + 1}\n`));
      const n = await conn.read(chunk);
      if (n === null) return;
      answers.push(new TextDecoder().decode(chunk.subarray(0, n)).trimEnd());
    }
  } catch (error) {
    // The peer closed with a line on its way.
    const { ConnectionReset, BrokenPipe } = Deno.errors;
    if (!(error instanceof ConnectionReset || error instanceof BrokenPipe)) throw error;
  }
}

/** Sends numbered lines in pieces of any size, and checks the answers. */
class EchoClient {
  readonly generations = new Set<string>();
  #sent = 0;
  #answered = 0;
  #stopped = false;
  readonly #done: Promise<unknown>;

  private constructor(readonly conn: Deno.Conn) {
    this.#done = Promise.all([this.#send(), this.#receive()]);
  }

  static async connect(port: number): Promise<EchoClient> {
    return new EchoClient(await Deno.connect({ hostname: "127.0.0.1", port }));
  }

  async #send(): Promise<void> {
    let piece = 1;
    let rest = new Uint8Array(0);
    for (;;) {
      if (rest.length === 0) {
        if (this.#stopped) break;
        // At most 20 lines are unanswered: the socket is never idle for long, and never full.
        await until(() => this.#stopped || this.#sent < this.#answered + 20);
        rest = new TextEncoder().encode(`line ${++this.#sent} ${"x".repeat(this.#sent % 40)}\n`);
      }
      piece = piece * 7 % 31;
      const n = await this.conn.write(rest.subarray(0, piece));
      rest = rest.subarray(n);
    }
    await this.conn.closeWrite();
  }

  async #receive(): Promise<void> {
    let text = "";
    const decoder = new TextDecoder();
    const chunk = new Uint8Array(4096);
    for (let n = await this.conn.read(chunk); n !== null; n = await this.conn.read(chunk)) {
      text += decoder.decode(chunk.subarray(0, n), { stream: true });
      const lines = text.split("\n");
      text = lines.pop()!;
      for (const line of lines) {
        const number = ++this.#answered;
        const [generation, ...rest] = line.split(" ");
        assertEquals(rest.join(" "), `${number} line ${number} ${"x".repeat(number % 40)}`);
        this.generations.add(generation);
      }
    }
    assertEquals(text, "");
  }

  /** Waits until 50 more lines are answered. */
  async goesOn(): Promise<void> {
    const before = this.#answered;
    await Promise.race([this.#done, until(() => this.#answered > before + 50)]);
    assert(this.#answered > before + 50, "the connection has ended");
  }

  async finish(): Promise<void> {
    this.#stopped = true;
    await this.#done;
    this.conn.close();
    assertEquals(this.#answered, this.#sent);
  }
}

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
  for (const [file, variable] of [["hono/main.ts", "PORT"], ["behind_nginx/main.ts", "SOCKET"]]) {
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
