/**
 * Functions of the program that throw: stop() still ends the generation, and restart() still has its outcome.
 *
 * @module
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { closeAll } from "../../ffi/fd.ts";
import { openDescriptors } from "../../ffi/proc.ts";
import { Draining } from "../../lib/generation/draining.ts";
import { asked, begin, here, portOf, quietly, saying } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { faults } from "../programs/throwing_service.ts";
import { KeptLog } from "../support/kept_log.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** A request that the service answers after the line `answer`. */
class Held {
  readonly #conn: Deno.Conn;

  private constructor(conn: Deno.Conn) {
    this.#conn = conn;
  }

  /** Sends the request. */
  static async at(port: number): Promise<Held> {
    const conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.write(new TextEncoder().encode("GET /held HTTP/1.1\r\nhost: a\r\n\r\n"));
    return new Held(conn);
  }

  /** Reads the body of the response; closes the connection. */
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

/** Starts a service one of whose functions throws, and sends it a request that it holds. */
async function holding(path: string, fault: string) {
  const child = new Child("./throwing_service.ts", [path, fault]);
  const [, port, other] = await child.numbers("serving");
  let client: Deno.Conn | undefined;
  if (fault === "state of a move") {
    client = await Deno.connect({ hostname: "127.0.0.1", port: other });
    await child.until(/^accepted/);
  }
  if (fault.startsWith("stream")) {
    const leaving = await Deno.connect({ hostname: "127.0.0.1", port });
    await leaving.write(new TextEncoder().encode("GET /stream HTTP/1.1\r\nhost: a\r\n\r\n"));
    await leaving.read(new Uint8Array(1000));
    leaving.close();
    await child.until(/^cancelled/);
  }
  const held = await Held.at(port);
  await child.until(/^holding/);
  return { child, port, held, client };
}

/** Asserts that the service has logged the error once; when its logger throws, that stderr has it. */
function assertLogged(fault: string, said: string[], stderr: string): void {
  if (fault === "logger") {
    assert(stderr.includes("The logger failed at"), stderr);
    return;
  }
  const count = said.filter((line) => /out of luck|[Cc]annot close/.test(line)).length;
  assertEquals(count, 1, said.join("\n"));
}

/** Functions that are called for peers of the control socket alone, and so not when a signal stops the service. */
const calledForPeers = ["kept state", "allow"];

for (const fault of faults) {
  test(`a service answers and stops on a signal although a function of it throws: ${fault}`, async () => {
    using directory = new Directory();
    const { child, held, client } = await holding(directory.join("app.sock"), fault);
    await using _child = child;
    using _client = client;
    Deno.kill(child.pid, "SIGTERM");
    const said: string[] = [];
    for (let next; (next = await child.line()) !== "draining";) said.push(next);
    await child.tell("answer");
    assertEquals(await held.answer(), "generation 1.");
    const { code, stdout, stderr } = await child.ended();
    assertEquals([code, stdout.at(-1)], [0, "finished"], stderr);
    assertEquals(directory.names(), []);
    said.push(...stdout);
    assert(!said.includes("a listener that was removed is called"));
    if (fault === "state of a move") assert(said.includes("moved: false"));
    else if (fault !== "onListen" && !calledForPeers.includes(fault)) {
      assertLogged(fault, said, stderr);
    }
  });

  test(`a service answers and restart() has its outcome although a function of the service throws: ${fault}`, async () => {
    using directory = new Directory();
    const { child, port, held, client } = await holding(directory.join("app.sock"), fault);
    await using _child = child;
    using _client = client;
    await child.tell("restart");
    const said: string[] = [];
    for (let next = ""; !/^(restarted|failed): /.test(next);) said.push(next = await child.line());
    const fails = calledForPeers.includes(fault);
    assertEquals(said.at(-1)!.startsWith("failed: "), fails, said.join("\n"));
    if (fails) assert(said.at(-1)!.includes(`out of luck: ${fault}`), said.at(-1));
    assertEquals(await asked(port), `generation ${fails ? 1 : 2}.`);
    await child.tell("answer");
    assertEquals(await held.answer(), "generation 1.");
    const isNext = (line: string) => line.startsWith("serving: 2 ");
    let next = child.pid;
    if (!fails) {
      if (!said.some(isNext)) said.push(await child.until(/^serving: 2 /));
      next = Number(said.find(isNext)!.split(" ")[4]);
      said.push(await child.until(/^finished/));
    }
    Deno.kill(next, "SIGTERM");
    const { code, stderr } = await child.ended();
    assertEquals(code, 0, stderr);
    await until(() => !directory.names().includes("app.sock"));
  });
}

test("serve() whose onListen throws closes its listener, and leaves an inherited listener to the next call", async () => {
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
  const port = portOf(old.serve(quietly, saying("old")));
  old.serve(unix, saying("old"));
  await old.ready();
  // After ready() a server accepts at once.
  assertThrows(() => old.serve({ ...here, onListen: fail }, saying("x")), Error, "out of luck");
  assertEquals(old.status().sockets.length, 2);

  const next = await begin(path);
  for (const place of [here, unix]) {
    assertThrows(() => next.serve({ ...place, onListen: fail }, saying("x")), Error, "out of luck");
  }
  assertEquals(portOf(next.serve(quietly, saying("next"))), port);
  next.serve(unix, saying("next"));
  await next.ready();
  await old.finished;
  assertEquals(await asked(port), "next");
  await next.stop();
  assertEquals(directory.names(), []);
});

test("a step of stop() that fails is logged, and the further steps are taken", async () => {
  using directory = new Directory();
  const log = new KeptLog();
  const app = await begin(directory.join("app.sock"), { logger: log });
  const before = new Set(openDescriptors());
  app.keep("a descriptor", 0);
  const [kept] = openDescriptors().filter((raw) => !before.has(raw));
  await app.ready();
  // The program closes a descriptor that the generation owns.
  closeAll([kept]);
  await app.stop();
  await app.finished;
  assertEquals(app.status().state, "stopped");
  assertEquals(log.errors.map(([message]) => message), [
    "Cannot close kept descriptors; draining goes on",
  ]);
  assertEquals(directory.names(), []);
});

test("`draining` calls a listener once, with the signal as `this` and target, unless it was removed", () => {
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
