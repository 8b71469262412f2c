/**
 * Exceptions of a program keep neither its generation from leaving, nor a restart from its outcome.
 *
 * @module
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { closeAll } from "../../ffi/fd.ts";
import { openDescriptors } from "../../ffi/proc.ts";
import { Draining } from "../../lib/generation/draining.ts";
import { asked, begin, here, portOf, saying } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { faults } from "../programs/throwing_service.ts";
import { KeptLog } from "../support/kept_log.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** The next line that begins so. */
async function line(child: Child, beginning: string): Promise<string> {
  for (;;) {
    const next = await child.line();
    if (next.startsWith(beginning)) return next;
  }
}

/** A request that the service holds until it is told to answer. */
class Held {
  readonly #conn: Deno.Conn;

  private constructor(conn: Deno.Conn) {
    this.#conn = conn;
  }

  static async at(port: number): Promise<Held> {
    const conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.write(new TextEncoder().encode("GET /held HTTP/1.1\r\nhost: a\r\n\r\n"));
    return new Held(conn);
  }

  /** The last word of the answer; closes the connection. */
  async answer(): Promise<string> {
    using conn = this.#conn;
    const chunk = new Uint8Array(4096);
    let answer = "";
    for (let n; !answer.endsWith(".") && (n = await conn.read(chunk)) !== null;) {
      answer += new TextDecoder().decode(chunk.subarray(0, n));
    }
    return answer.split("\r\n\r\n")[1];
  }
}

/** A service of which one function throws, which holds a request. */
async function holding(path: string, fault: string) {
  const child = new Child("./throwing_service.ts", [path, fault]);
  const [, port, other] = (await line(child, "serving: 1 ")).slice("serving: ".length).split(" ")
    .map(Number);
  let client: Deno.Conn | undefined;
  if (fault === "state of a move") {
    client = await Deno.connect({ hostname: "127.0.0.1", port: other });
    await line(child, "accepted");
  }
  if (fault.startsWith("stream")) {
    const leaving = await Deno.connect({ hostname: "127.0.0.1", port });
    await leaving.write(new TextEncoder().encode("GET /stream HTTP/1.1\r\nhost: a\r\n\r\n"));
    await leaving.read(new Uint8Array(1000));
    leaving.close();
    await line(child, "cancelled");
  }
  const held = await Held.at(port);
  await line(child, "holding");
  return { child, port, held, client };
}

/** How the process of the service said what was wrong, once: by itself, or where its logger failed. */
function checkSaid(fault: string, said: string[], stderr: string): void {
  if (fault === "logger") {
    assert(stderr.includes("The logger failed at"), stderr);
    return;
  }
  const count = said.filter((line) => /out of luck|[Cc]annot close/.test(line)).length;
  assertEquals(count, 1, said.join("\n"));
}

/** What is asked at the control socket itself, and so not when a signal stops the service. */
const onlyOfOthers = ["kept state", "allow"];

for (const fault of faults) {
  test(`a service is stopped by a signal, and answers, although this throws: ${fault}`, async () => {
    using directory = new Directory();
    const { child, held, client } = await holding(directory.join("app.sock"), fault);
    await using _child = child;
    using _client = client;
    Deno.kill(child.pid, "SIGTERM");
    const said: string[] = [];
    for (let next; (next = await child.line()) !== "told to leave";) said.push(next);
    await child.tell("answer");
    assertEquals(await held.answer(), "generation 1.");
    const { code, stdout, stderr } = await child.ended();
    assertEquals([code, stdout.at(-1)], [0, "finished"], stderr);
    assertEquals(directory.names(), []);
    said.push(...stdout);
    assert(!said.includes("a listener that was removed is called"));
    if (fault === "state of a move") assert(said.includes("moved: false"));
    else if (fault !== "onListen" && !onlyOfOthers.includes(fault)) checkSaid(fault, said, stderr);
  });

  test(`restart() has an outcome, and the service answers, although this throws: ${fault}`, async () => {
    using directory = new Directory();
    const { child, port, held, client } = await holding(directory.join("app.sock"), fault);
    await using _child = child;
    using _client = client;
    await child.tell("restart");
    const said: string[] = [];
    for (let next = ""; !/^(restarted|failed): /.test(next);) said.push(next = await child.line());
    const fails = onlyOfOthers.includes(fault);
    assertEquals(said.at(-1)!.startsWith("failed: "), fails, said.join("\n"));
    if (fails) assert(said.at(-1)!.includes(`out of luck: ${fault}`), said.at(-1));
    assertEquals(await asked(port), `generation ${fails ? 1 : 2}.`);
    await child.tell("answer");
    assertEquals(await held.answer(), "generation 1.");
    const isNext = (line: string) => line.startsWith("serving: 2 ");
    let next = child.pid;
    if (!fails) {
      if (!said.some(isNext)) said.push(await line(child, "serving: 2 "));
      next = Number(said.find(isNext)!.split(" ")[4]);
      said.push(await line(child, "finished"));
    }
    Deno.kill(next, "SIGTERM");
    const { code, stderr } = await child.ended();
    assertEquals(code, 0, stderr);
    await until(() => !directory.names().includes("app.sock"));
  });
}

test("where onListen throws nothing listens, and what was inherited is still there to be asked for", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const fail = () => {
    throw new Error("out of luck");
  };
  const old = await begin(path);
  const unix = { path: directory.join("http.sock") };
  const open = openDescriptors().length;
  for (let i = 0; i < 3; i++) {
    for (const place of [here, unix]) {
      assertThrows(
        () => old.serve({ ...place, onListen: fail }, saying("x")),
        Error,
        "out of luck",
      );
    }
  }
  assertEquals(old.status().sockets, []);
  assertEquals(directory.names(), ["app.sock"]);
  await until(() => openDescriptors().length <= open);
  const port = portOf(old.serve(here, saying("old")));
  old.serve(unix, saying("old"));
  await old.ready();
  // After ready() it would have accepted at once.
  assertThrows(() => old.serve({ ...here, onListen: fail }, saying("x")), Error, "out of luck");
  assertEquals(old.status().sockets.length, 2);

  const next = await begin(path);
  for (const place of [here, unix]) {
    assertThrows(() => next.serve({ ...place, onListen: fail }, saying("x")), Error, "out of luck");
  }
  assertEquals(portOf(next.serve(here, saying("next"))), port);
  next.serve(unix, saying("next"));
  await next.ready();
  await old.finished;
  assertEquals(await asked(port), "next");
  await next.stop();
  assertEquals(directory.names(), []);
});

test("a step of leaving that fails is logged, and those behind it are taken", async () => {
  using directory = new Directory();
  const log = new KeptLog();
  const app = await begin(directory.join("app.sock"), { logger: log });
  const before = new Set(openDescriptors());
  app.keep("a descriptor", 0);
  const [kept] = openDescriptors().filter((raw) => !before.has(raw));
  await app.ready();
  // The program closes a number that is not its own.
  closeAll([kept]);
  await app.stop();
  await app.finished;
  assertEquals(app.status().state, "stopped");
  assertEquals(log.errors.map(([message]) => message), [
    "Cannot close what was kept; leaving goes on",
  ]);
  assertEquals(directory.names(), []);
});

test("a listener of draining is called once, with its signal, until it is removed", () => {
  const errors: unknown[] = [];
  const draining = new Draining((error) => errors.push(error));
  const { signal } = draining;
  const called: unknown[] = [];
  function listener(this: unknown, event: Event) {
    called.push(this === signal && event.target === signal);
  }
  signal.addEventListener("abort", listener);
  signal.addEventListener("abort", listener, { once: true });
  const removed = { handleEvent: () => called.push("removed") };
  signal.addEventListener("abort", removed);
  signal.removeEventListener("abort", removed);
  signal.removeEventListener("abort", () => {});
  const reason = new Error("replaced");
  draining.abort(reason);
  draining.abort(new Error("again"));
  assertEquals(called, [true]);
  assertEquals([signal.aborted, signal.reason, errors], [true, reason, []]);
});
