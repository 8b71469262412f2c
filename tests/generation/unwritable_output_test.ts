/**
 * Processes whose output cannot be written: the output is lost, and everything else works.
 *
 * @module
 */

import { assertEquals, assertRejects } from "@std/assert";
import { pause } from "../../lib/time.ts";
import { Channel } from "../../lib/generation/channel.ts";
import { connect, listen, receive } from "../../mod.ts";
import { begin } from "../support/in_process.ts";
import { Child, programPath } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { succeeds } from "../support/succeeds.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const ignore = !await succeeds(["python3", "--version"]);
if (ignore) console.log("unwritable_output_test.ts: skipped: python3 is not installed");

const unwritable = programPath("unwritable.py");

/** Outputs that cannot be written, as `unwritable.py` names them. */
const kinds = [
  "full disk",
  "terminal that has gone",
  "pipe that nobody reads",
  "closed descriptor",
];

/** Starts a program whose output cannot be written. */
function unheard(kind: string, name: string, ...args: string[]): Child {
  return new Child(name, args, { through: ["python3", unwritable, kind] });
}

/** Runs the command line, whose output cannot be written either; returns its exit code. */
async function cli(kind: string, ...args: string[]): Promise<number> {
  await using child = unheard(kind, "../../lib/cli.ts", ...args);
  return (await child.ended()).code;
}

/** The status and body of the response to a GET request. */
async function asked(address: Deno.UnixConnectOptions | Deno.ConnectOptions): Promise<string> {
  using conn = "path" in address ? await Deno.connect(address) : await Deno.connect(address);
  await conn.write(
    new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
  );
  const [head, body] = (await new Response(conn.readable).text()).split("\r\n\r\n");
  return `${head.split(" ")[1]} ${body}`;
}

for (const kind of kinds) {
  test(`a service whose output is a ${kind} serves, restarts and stops`, { ignore }, async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    await using service = unheard(kind, "./failing_handlers.ts", directory.path);
    const serves = (generation: number) =>
      until(async () => {
        try {
          const http = { transport: "unix", path: directory.join("http.sock") } as const;
          return await asked(http) === `200 generation ${generation}`;
        } catch (error) {
          if (error instanceof Deno.errors.NotFound) return false;
          throw error;
        }
      });
    await serves(1);

    /** Provokes every kind of line in the log. */
    async function provokeLog(): Promise<void> {
      using stranger = await connect(path);
      await stranger.write(new TextEncoder().encode("GET / HTTP/1.0\r\n\r\n"));
      await stranger.read(new Uint8Array(1)).catch(() => {});
      await using status = new Child("../../lib/cli.ts", ["status", path]);
      const [, port] = /127\.0\.0\.1:(\d+)/.exec((await status.ended()).stdout.join("\n"))!;
      const failing = { hostname: "127.0.0.1", port: Number(port) };
      const worse = { transport: "unix", path: directory.join("worse.sock") } as const;
      for (let i = 0; i < 3; i++) {
        assertEquals(await asked(failing), "500 Internal Server Error");
        assertEquals(await asked(worse), "500 Internal Server Error");
      }
      const plain = directory.join("plain.sock");
      await assertRejects(() => receive(plain, () => {}));
      assertEquals(await receive(plain, () => {}), 1);
    }

    await provokeLog();
    // A failed restart logs several lines, and changes nothing.
    Deno.writeTextFileSync(directory.join("fail"), "");
    assertEquals(await cli(kind, "restart", path), 1);
    await serves(1);
    Deno.removeSync(directory.join("fail"));
    assertEquals(await cli(kind, "restart", path), 0);
    await serves(2);
    await provokeLog();
    assertEquals(await cli(kind, "restart", path), 0);
    await serves(3);
    assertEquals((await service.ended()).code, 0);
    assertEquals(await cli(kind, "stop", path), 0);
    assertEquals(await cli(kind, "status", path), 3);
  });

  test(
    `the command line keeps its exit codes when its output is a ${kind}`,
    { ignore },
    async () => {
      using directory = new Directory();
      const path = directory.join("app.sock");
      await using app = await begin(path, { command: { program: "false", args: [] } });
      await app.ready();
      // `status` fails when it cannot print the answer, except into a pipe whose reader has closed it. In place
      // of a closed descriptor Deno opens /dev/null.
      const isSeen = kind === "closed descriptor" || kind === "pipe that nobody reads";
      const code = isSeen ? 0 : 1;
      assertEquals(await cli(kind, "status", path), code);
      assertEquals(await cli(kind, "status", path, "--json"), code);
      assertEquals(await cli(kind, "--help"), code);
      assertEquals(await cli(kind, "begin", path), 2);
      assertEquals(await cli(kind, "status", directory.join("nobody.sock")), 3);
      assertEquals(await cli(kind, "restart", path), 1);
    },
  );
}

test(
  "the command line waits for a restart although it cannot print for how long",
  { ignore },
  async () => {
    using directory = new Directory();
    using listener = listen(directory.join("app.sock"));
    const restarting = cli("full disk", "restart", listener.addr.path!);
    using channel = new Channel(await listener.accept());
    assertEquals(await channel.receive(), { type: "restart" });
    // The first line is due after 5 s. On a slow machine it may be due after this pause: then it is not tested.
    await pause(6000);
    await channel.send({ type: "done", pid: 1, generation: 2 });
    assertEquals(await restarting, 0);
  },
);
