import { assert, assertEquals, assertMatch } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { until } from "../support/until.ts";
import { Example } from "./example.ts";

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
