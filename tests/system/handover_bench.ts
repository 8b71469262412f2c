/**
 * A whole handover, from connect() until every descriptor is received and closed, between two processes
 * of this library; between two of the Go library; and between two C programs that do no more than
 * sendmsg(2) and recvmsg(2). They take turns, so that what else the machine does meets all of them.
 *
 * @module
 */

import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";

/** How many descriptors, how many handovers of them make a turn, and how many turns each gets. */
const series = [
  { count: 1, handovers: 20, rounds: 200 },
  { count: 16, handovers: 20, rounds: 200 },
  { count: 170, handovers: 20, rounds: 100 },
  { count: 1000, handovers: 5, rounds: 50 },
  { count: 10_000, handovers: 2, rounds: 31 },
];

/** Of the first handovers of fresh processes. */
const freshCounts = [1, 1000];
const freshRounds = 15;

const library = "github.com/gobwas/graceful";

/** How to start a sender or a receiver. */
type Start = (role: "send" | "receive", args: string[]) => Child;

interface Contender {
  name: string;
  start: Start;
}

/** Nanoseconds of handovers, by turns. */
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

/** In processes that have done many. */
async function steady(directory: Directory, contenders: Contender[]): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const receivers = contenders.map(({ name, start }) =>
    stack.use(start("receive", [directory.join(name)]))
  );
  console.log(`\nMicroseconds a handover: median (10th to 90th percentile)`);
  for (const { count, handovers, rounds } of series) {
    // Until V8 has compiled what it will, and every descriptor table has grown.
    for (const receiver of receivers) await receive(receiver, count, 100 * handovers);
    const times = await inTurns(
      rounds,
      receivers,
      (receiver) => receive(receiver, count, handovers),
    );
    report(count, contenders.map(({ name }) => name), times);
  }
}

/** In processes that do their first; starting them and loading the module is not counted. */
async function fresh(directory: Directory, contenders: Contender[]): Promise<void> {
  const others = contenders.slice(1);
  const variants = [
    ...contenders.map(({ name, start }) => ({ name, start, peer: name, args: [] as string[] })),
    // What opening the C library costs is not in this one.
    { name: "deno, library used before", start: deno.start, peer: "deno", args: ["used"] },
    // With more than one thread, as Deno and Go always have, the kernel waits for all processors when
    // it enlarges the descriptor table (fs/file.c, `expand_fdtable`).
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

/** Lets each do something in turn, so many times; who comes first changes. */
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

/** A line for each, and what the first of them is to the others. */
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

/** By pairs, each of one round, and by the medians of all. */
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

/** A program that takes its role as its first argument. */
function program(name: string, path: string): Contender {
  return { name, start: (role, args) => new Child(path, [role, ...args], { command: "env" }) };
}

async function buildGo(directory: Directory): Promise<Contender[]> {
  const path = directory.join("handover.go");
  const go = await find(["go", "/usr/local/go/bin/go"], "version");
  if (!go) {
    console.log("\nNot compared with Go, which is not installed");
    return [];
  }
  const build = (tags: string[], env: Record<string, string>) =>
    new Deno.Command(go, {
      args: ["build", ...tags, "-o", path, "./handover"],
      cwd: new URL("../peers/go/", import.meta.url),
      env: { GOTOOLCHAIN: "local", GIT_TERMINAL_PROMPT: "0", ...env },
      // A server that does not answer is one that refuses.
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
    console.log("Not compared with C, for which no compiler is installed");
    return [];
  }
  const source = new URL("../peers/c/handover.c", import.meta.url).pathname;
  const { success, stderr } = await new Deno.Command(cc, {
    args: ["-O2", "-pthread", "-o", path, source],
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return [program("c", path)];
}

/** The first of the commands that is installed. */
async function find(commands: string[], arg: string): Promise<string | undefined> {
  for (const command of commands) {
    try {
      if ((await new Deno.Command(command, { args: [arg] }).output()).success) return command;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}
