/**
 * Clients of examples/systemd/main.ts that never repeat a request, for `systemd_clients.ts`: four that open a
 * connection for each request, two whose requests take longer, and one that keeps its connection. Prints a line of JSON
 * for each process that answers for the first time, for the first refused connection, and the figures at the end.
 *
 * Arguments: the port, and how many milliseconds the slow requests take. Reads lines: `kill PID` (SIGKILL), `killed
 * TIME` (another process was), `slow MS` (one more request), `more N` (says when N more were answered), `quiet` (no new
 * requests), `stop`.
 *
 * @module
 */

type Failure = "refused" | "reset" | "cut" | "late" | string;

const [port, slowest] = Deno.args.map(Number);
/** How long an answer may take: longer than a restart of the whole unit. */
const limit = 20_000;

let requests = 0;
let answered = 0;
/** With the time when a connection was opened, and that of its failure. */
const failures: { kind: Failure; began: number; ended: number }[] = [];
const kills: number[] = [];
const processes = new Set<number>();
let isQuiet = false;

function print(value: unknown): void {
  console.log(JSON.stringify(value));
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

class Failed extends Error {}

/** One connection. */
class Client {
  readonly began = Date.now();
  #conn!: Deno.Conn;

  static async open(): Promise<Client> {
    const client = new Client();
    client.#conn = await Deno.connect({ hostname: "127.0.0.1", port });
    return client;
  }

  /** Sends a request; resolves to whether the server keeps the connection. */
  async request(path: string, keep: boolean): Promise<{ keeps: boolean; pid: number }> {
    const timer = setTimeout(() => this.close(), limit);
    try {
      const connection = keep ? "" : "Connection: close\r\n";
      const head = `GET ${path} HTTP/1.1\r\nHost: test\r\n${connection}\r\n`;
      await this.#conn.write(new TextEncoder().encode(head));
      let text = "";
      const chunk = new Uint8Array(4096);
      for (;;) {
        const n = await this.#conn.read(chunk);
        if (n === null) throw new Failed("cut");
        text += new TextDecoder().decode(chunk.subarray(0, n));
        const [lines, body] = text.split("\r\n\r\n");
        const [, length] = /\r\ncontent-length: (\d+)/i.exec(lines) ?? [];
        if (body === undefined || body.length < Number(length)) continue;
        const [, pid] = /^process (\d+), /.exec(body) ?? [];
        if (!lines.startsWith("HTTP/1.1 200 ") || !pid) throw new Failed(text.slice(0, 100));
        seen(Number(pid));
        return { keeps: !/\r\nconnection: close/i.test(lines), pid: Number(pid) };
      }
    } finally {
      clearTimeout(timer);
    }
  }

  close(): void {
    try {
      this.#conn.close();
    } catch (error) {
      // The limit has closed it already.
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
  }
}

function seen(pid: number): void {
  answered++;
  if (processes.has(pid)) return;
  processes.add(pid);
  print({ pid });
}

function failed(error: unknown, began: number): void {
  const kind = kindOf(error);
  if (kind === "refused" && !failures.some((failure) => failure.kind === kind)) {
    print({ refused: true });
  }
  failures.push({ kind, began, ended: Date.now() });
}

function kindOf(error: unknown): Failure {
  if (error instanceof Failed) return error.message;
  if (error instanceof Deno.errors.ConnectionRefused) return "refused";
  if (error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.BrokenPipe) {
    return "reset";
  }
  if (error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted) {
    return "late";
  }
  return String(error);
}

/** A request on a connection of its own; resolves to the process that has answered. */
async function ask(path: string): Promise<number | undefined> {
  const began = Date.now();
  let client: Client | undefined;
  requests++;
  try {
    client = await Client.open();
    return (await client.request(path, false)).pid;
  } catch (error) {
    failed(error, began);
  } finally {
    client?.close();
  }
}

async function askAgainAndAgain(path: string, every: number): Promise<void> {
  while (!isQuiet) {
    await ask(path);
    await pause(every);
  }
}

/** Keeps its connection for as long as the server does. */
async function keepAlive(): Promise<void> {
  let client: Client | undefined;
  while (!isQuiet) {
    const began = client?.began ?? Date.now();
    requests++;
    try {
      client ??= await Client.open();
      if (!(await client.request("/", true)).keeps) {
        client.close();
        client = undefined;
      }
    } catch (error) {
      failed(error, began);
      client?.close();
      client = undefined;
    }
    await pause(20);
  }
  client?.close();
}

/** One request that takes `ms`: prints when the service has accepted it, and how it ended. */
async function slow(ms: number): Promise<void> {
  const answer = ask(`/?wait=${ms}`);
  // A service accepts in order: the connection before one that is answered is accepted.
  await pause(20);
  await ask("/");
  print({ accepted: ms });
  print({ slow: ms, by: await answer ?? null });
}

/** Prints when so many more requests are answered. */
async function more(count: number): Promise<void> {
  const wanted = answered + count;
  while (answered < wanted) await pause(5);
  print({ more: count });
}

/** Whether a killed process had the connection: it was open at that moment, and failed soon after. */
function isHeld({ kind, began, ended }: typeof failures[number]): boolean {
  if (kind !== "reset" && kind !== "cut") return false;
  return kills.some((kill) => began <= kill + 20 && ended >= kill && ended <= kill + 1000);
}

async function* lines(): AsyncGenerator<string> {
  let rest = "";
  for await (const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    const all = (rest + text).split("\n");
    rest = all.pop()!;
    yield* all;
  }
}

const running = [
  ...Array.from({ length: 4 }, () => askAgainAndAgain("/", 4)),
  ...Array.from({ length: 2 }, () => askAgainAndAgain(`/?wait=${slowest}`, 50)),
  keepAlive(),
];
const slowOnes: Promise<void>[] = [];

for await (const line of lines()) {
  const [command, number] = line.split(" ");
  if (command === "kill") {
    kills.push(Date.now());
    Deno.kill(Number(number), "SIGKILL");
  } else if (command === "killed") {
    kills.push(Number(number));
  } else if (command === "more") {
    void more(Number(number));
  } else if (command === "slow") {
    slowOnes.push(slow(Number(number)));
  } else {
    isQuiet = true;
    await Promise.all(running);
    if (command === "quiet") print({ quiet: true });
    else break;
  }
}
await Promise.all(slowOnes);
const counted: Record<string, number> = {};
for (const failure of failures) {
  const kind = isHeld(failure) ? "held" : failure.kind;
  counted[kind] = (counted[kind] ?? 0) + 1;
}
print({ requests, failures: counted });
Deno.exit();
