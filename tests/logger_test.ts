/**
 * Loggers that fail, at once or later: the library goes on, and says on stderr what is not in the log.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { guarded, printError } from "../lib/logger.ts";
import { connect, fdHandler, listenAndServe, type Logger, receive, TestService } from "../mod.ts";
import { begin } from "./support/in_process.ts";
import { Directory } from "./support/directory.ts";
import { until } from "./support/until.ts";
import { test } from "./support/guard.ts";

const failure = new Error("out of luck");

/** How a logger fails. */
const ways: Record<string, () => void> = {
  "throws": () => {
    throw failure;
  },
  // To the type checker a function that gives a promise is one that gives nothing.
  "gives a promise that rejects": () => Promise.reject(failure),
  "gives a promise that rejects later": async () => {
    await new Promise((resolve) => setTimeout(resolve, 1));
    throw failure;
  },
};

/** What would be printed to stderr meanwhile, to the line that says `last`. */
async function printed(run: () => Promise<void>, last: string): Promise<unknown[][]> {
  const lines: unknown[][] = [];
  const { error } = console;
  console.error = (...line) => void lines.push(line);
  try {
    await run();
    await until(() => said(lines, last));
  } finally {
    console.error = error;
  }
  return lines;
}

for (const [how, fail] of Object.entries(ways)) {
  const logger: Logger = { debug: fail, info: fail, warn: fail, error: fail };

  test(`a logger that ${how} ends no server, and its words are on stderr`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    let clients = 0;
    const lines = await printed(async () => {
      await using _server = listenAndServe(path, async (conn, response) => {
        response.info("a word of the handler's");
        if (clients++ === 0) throw new Error("on purpose");
        await fdHandler(0)(conn, response);
      }, { logger });
      await assertRejects(() => receive(path, () => {}));
      for (let i = 0; i < 3; i++) assertEquals(await receive(path, () => {}), 1);
    }, "Cannot send descriptors to process");
    assert(said(lines, "a word of the handler's"));
    for (const line of lines) assertEquals(line[1], failure);
  });

  test(`a logger that ${how} ends no generation, and no test service`, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const lines = await printed(async () => {
      const first = await begin(path, { logger, command: { program: "false", args: [] } });
      await first.ready();
      using stranger = await connect(path);
      await stranger.write(new TextEncoder().encode("GET / HTTP/1.0\r\n\r\n"));
      await stranger.read(new Uint8Array(1)).catch(() => {});
      await assertRejects(() => first.restart());
      const second = await begin(path, { logger });
      await second.ready();
      await first.finished;
      await second.stop();
      await using service = new TestService(async (app) => {
        await app.ready();
        await app.finished;
      }, { logger });
      await (await service.next()).stop();
    }, "Generation 1: stopped");
    assert(said(lines, `A conversation at "${path}" failed`));
    assert(said(lines, "The restart failed"));
  });
}

test("an error that cannot be printed, or cannot be inspected, is lost", async () => {
  const { warn, error } = console;
  console.warn = console.error = () => {
    throw new Error("No space left on device");
  };
  try {
    printError("lost");
    guarded().error!("lost");
    guarded().warn!("lost");
    const rejecting = () => Promise.reject(failure);
    guarded({ error: rejecting }).error!("lost");
    await new Promise((resolve) => setTimeout(resolve, 1));
  } finally {
    Object.assign(console, { warn, error });
  }
  printError({
    get [Symbol.toStringTag](): string {
      throw failure;
    },
    [Symbol.for("Deno.customInspect")]() {
      throw failure;
    },
  });
});

test("a level that a logger does not have stays absent", () => {
  const logger = guarded({ error() {} });
  assertEquals([logger.debug, logger.info, logger.warn], [undefined, undefined, undefined]);
  assertEquals(guarded(logger), logger);
});

/** Whether a line begins so, after the words that the logger has failed. */
function said(lines: unknown[][], words: string): boolean {
  for (const [line] of lines) assertMatch(String(line), /^The logger failed at: /);
  return lines.some(([line]) => String(line).startsWith(`The logger failed at: ${words}`));
}
