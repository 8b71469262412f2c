/**
 * A next generation that is started outside of the unit of its predecessor.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { hasPython } from "../support/activation.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";
import { ManagedService } from "../support/managed_service.ts";

/** A cgroup for processes; the end of its block removes it. */
class Group implements Disposable {
  readonly #path: string;

  constructor(parent: string, name: string) {
    this.#path = `${parent}/${name}`;
    Deno.mkdirSync(this.#path);
    // A directory of another file system has no such file.
    Deno.statSync(`${this.#path}/cgroup.procs`);
  }

  /** A command that executes the rest of the command line in the group. */
  get through(): string[] {
    return ["sh", "-c", `echo $$ > ${this.#path}/cgroup.procs && exec "$@"`, "sh"];
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.#path);
  }
}

/** A directory in which a cgroup can be made: of cgroup 1, of both, or of cgroup 2 (cgroups(7)). */
const hierarchy = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"].find(
  (path) => {
    try {
      using _group = new Group(path, `graceful-${crypto.randomUUID()}.scope`);
      return true;
    } catch {
      return false;
    }
  },
);
const ignore = !hasPython || hierarchy === undefined;
if (ignore) console.log("outside_unit_test.ts: python3 is not installed, or no cgroup can be made");

for (const [kind, pidfile] of [["scope", "app.pid"], ["scope", null], ["service", null]] as const) {
  const what = pidfile === null ? "without a PID file" : "with a PID file";
  test(`a generation of another ${kind} does not become the main process of a unit ${what}`, {
    ignore,
  }, async () => {
    using directory = new Directory();
    using group = new Group(hierarchy!, `graceful-${crypto.randomUUID()}.${kind}`);
    const serve = ["--serve", JSON.stringify({ hostname: "127.0.0.1", port: freePort() })];
    await using service = new ManagedService(directory, serve, { pidfile });
    const old = await service.serving();
    {
      const { through } = group;
      await using next = new Generations("./unit_service.ts", [service.control, ...serve], {
        through,
      });
      await next.until(/^serving: 2 /);
      if (kind === "scope") {
        assertMatch(
          await service.until(/^warning: /),
          /^warning: Process \d+, the next generation, was started outside of the unit .*`systemctl reload`/,
        );
      }
      await service.until(`ended: ${old} 0`);
      assertEquals(service.told.filter(({ text }) => /MAINPID|STOPPING/.test(text)), []);
      if (pidfile !== null) assertEquals(service.main, old);
      await using stop = new Child("../../lib/cli.ts", ["stop", service.control]);
      assertEquals((await stop.ended()).code, 0);
      const { stdout } = await next.ended();
      assert(stdout.includes("finished: 2"));
    }
  });
}
