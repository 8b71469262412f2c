/**
 * How long a handover takes, from connect() until every descriptor is received and closed: between two
 * processes of this library, of the Go library, and of a C program that only calls sendmsg(2) and recvmsg(2).
 * They are measured in turns: other load on the machine slows all of them.
 *
 * @module
 */

import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";

/** The number of descriptors, the handovers of a turn, and the turns of each contender. */
const series = [
  { count: 1, handovers: 20, rounds: 200 },
  { count: 16, handovers: 20, rounds: 200 },
  { count: 170, handovers: 20, rounds: 100 },
  { count: 1000, handovers: 5, rounds: 50 },
  { count: 10_000, handovers: 2, rounds: 31 },
];

/** The number of descriptors of the first handover in a fresh process. */
const freshCounts = [1, 1000];
const freshRounds = 15;

const library = "github.com/gobwas/graceful";

/** Starts a sender or a receiver. */
type Start = (role: "send" | "receive", args: string[]) => Child;

interface Contender {
  name: string;
  start: Start;
}

/** Nanoseconds of each handover, by turn. */
type Turns = number[][];

Deno.bench({
  name: "handovers",
  n: 1,
  warmup: 0,
  async fn() {
    using directory = new Directory();
    const contenders = [deno, ...await buildGo(directory), ...await buildC(directory)];
    await using senders = new AsyncDisposableStack();
    for (const { name, start } of contenders) {
      Deno.mkdirSync(directory.join(name));
      const sender = start("send", [
        directory.join(name),
        ...series.map(({ count }) => `${count}`),
      ]);
      await senders.use(sender).line();
    }
    await steady(directory, contenders);
    await fresh(directory, contenders);
  },
});

/** Measures processes that have done many handovers. */
async function steady(directory: Directory, contenders: Contender[]): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const receivers = contenders.map(({ name, start }) =>
    stack.use(start("receive", [directory.join(name)]))
  );
  console.log(`\nMicroseconds a handover: median (10th to 90th percentile)`);
  for (const { count, handovers, rounds } of series) {
    // Warm up: V8 has compiled the code, and every descriptor table has grown.
    for (const receiver of receivers) await receive(receiver, count, 100 * handovers);
    const times = await inTurns(
      rounds,
      receivers,
      (receiver) => receive(receiver, count, handovers),
    );
    report(count, contenders.map(({ name }) => name), times);
  }
}

/** Measures the first handover of a process, without the time to start it and to load the module. */
async function fresh(directory: Directory, contenders: Contender[]): Promise<void> {
  const others = contenders.slice(1);
  const variants = [
    ...contenders.map(({ name, start }) => ({ name, start, peer: name, args: [] as string[] })),
    // Without the time to open the C library.
    { name: "deno, library used before", start: deno.start, peer: "deno", args: ["used"] },
    // In a process of several threads, as those of Deno and Go, the kernel waits for all processors when it
    // enlarges the descriptor table (fs/file.c, `expand_fdtable`).
    ...others.filter(({ name }) => name === "c").map(({ start }) => (
      { name: "c, with a second thread", start, peer: "c", args: ["thread"] }
    )),
  ];
  console.log(`\nThe same, the first in a fresh process`);
  for (const count of freshCounts) {
    const times = await inTurns(freshRounds, variants, async ({ start, peer, args }) => {
      await using receiver = start("receive", [directory.join(peer), ...args]);
      return await receive(receiver, count, 1);
    });
    report(count, variants.map(({ name }) => name), times);
  }
}

/** Runs `turn` for each contender, `rounds` times; each round begins with another one. */
async function inTurns<T>(
  rounds: number,
  all: T[],
  turn: (one: T) => Promise<number[]>,
): Promise<Turns[]> {
  const times: Turns[] = all.map(() => []);
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < all.length; i++) {
      const which = (round + i) % all.length;
      times[which].push(await turn(all[which]));
    }
  }
  return times;
}

async function receive(receiver: Child, count: number, handovers: number): Promise<number[]> {
  await receiver.tell(`run ${count} ${handovers}`);
  return (await receiver.line()).split(" ").map(Number);
}

/** Prints a line for each contender; for the others also how much of their time the first one takes. */
function report(count: number, names: string[], times: Turns[]): void {
  console.log(`  ${count.toLocaleString("en")} ${count === 1 ? "descriptor" : "descriptors"}`);
  for (const [i, name] of names.entries()) {
    const all = times[i].flat().map((nanoseconds) => nanoseconds / 1000);
    const [low, median, high] = [0.1, 0.5, 0.9].map((part) => quantile(all, part).toFixed(0));
    const line = `    ${name.padEnd(26)} ${median.padStart(7)}  ${
      `(${low} to ${high})`.padEnd(20)
    }`;
    console.log(i === 0 ? line.trimEnd() : `${line} ${ratio(names[0], times[0], times[i])}`);
  }
}

/** The ratio within each round, and that of the medians of all rounds. */
function ratio(name: string, own: Turns, other: Turns): string {
  const pairs = own.map((turn, round) => quantile(turn, 0.5) / quantile(other[round], 0.5));
  const [low, median, high] = [0.25, 0.5, 0.75].map((part) => quantile(pairs, part).toFixed(2));
  const ofMedians = quantile(own.flat(), 0.5) / quantile(other.flat(), 0.5);
  return `${name} takes ${median} of it (quartiles ${low} to ${high}; medians ${
    ofMedians.toFixed(2)
  })`;
}

function quantile(values: number[], part: number): number {
  return values.toSorted((a, b) => a - b)[Math.floor(part * (values.length - 1))];
}

const deno: Contender = {
  name: "deno",
  start: (role, args) =>
    new Child(role === "send" ? "./bench_server.ts" : "./handover_receive.ts", args),
};

/** A program whose first argument is its role. */
function program(name: string, path: string): Contender {
  return { name, start: (role, args) => new Child(path, [role, ...args], { command: "env" }) };
}

async function buildGo(directory: Directory): Promise<Contender[]> {
  const path = directory.join("handover.go");
  const go = await find(["go", "/usr/local/go/bin/go"], "version");
  if (!go) {
    console.log("\nNot compared with Go: go is not installed");
    return [];
  }
  const build = (tags: string[], env: Record<string, string>) =>
    new Deno.Command(go, {
      args: ["build", ...tags, "-o", path, "./handover"],
      cwd: new URL("../peers/go/", import.meta.url),
      env: { GOTOOLCHAIN: "local", GIT_TERMINAL_PROMPT: "0", ...env },
      // A module proxy that does not answer counts as one that refuses.
      signal: AbortSignal.timeout(60_000),
    }).output();
  if ((await build([], {})).success) {
    console.log(`\n"go" is ${library}`);
  } else {
    console.log(`\n"go" is Go's net and syscall alone: ${library} cannot be built here`);
    const { success, stderr } = await build(["-tags", "plain"], { GOPROXY: "off", GOWORK: "off" });
    if (!success) throw new Error(new TextDecoder().decode(stderr));
  }
  return [program("go", path)];
}

async function buildC(directory: Directory): Promise<Contender[]> {
  const path = directory.join("handover.c");
  const cc = await find(["cc", "gcc"], "--version");
  if (!cc) {
    console.log("Not compared with C: neither cc nor gcc is installed");
    return [];
  }
  const source = new URL("../peers/c/handover.c", import.meta.url).pathname;
  const { success, stderr } = await new Deno.Command(cc, {
    args: ["-O2", "-pthread", "-o", path, source],
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return [program("c", path)];
}

/** The first command that is installed. */
async function find(commands: string[], arg: string): Promise<string | undefined> {
  for (const command of commands) {
    try {
      if ((await new Deno.Command(command, { args: [arg] }).output()).success) return command;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}
