/**
 * The names by which the next generation finds its sockets.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertThrows,
} from "@std/assert";
import type { Generation, Logger } from "../../mod.ts";
import { asked, begin, here, portOf, saying } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";

const { ConnectionRefused } = Deno.errors;
const hostname = "127.0.0.1";

/** Keeps warnings and errors. */
class Log implements Logger {
  readonly lines: string[] = [];
  warn = (message: string) => void this.lines.push(message);
  error = (message: string, error?: unknown) => void this.lines.push(`${message}: ${error}`);
}

test("sockets with names are found in any order of the calls", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new Log();
  const names = ["public", "admin", "metrics"];
  const make = (app: Generation, names: string[]) =>
    new Map(names.map((name) => [name, [
      portOf(app.serve({ ...here, name }, saying(name))),
      portOf(app.listenDatagram({ ...here, name })),
    ]]));
  const old = await begin(path, { logger: log });
  const ports = make(old, names);
  await old.ready();
  const next = await begin(path, { logger: log });
  assertEquals(
    next.inherited.map(({ kind, name }) => [kind, name]),
    ["listener", "datagram"].flatMap((kind) => names.map((name) => [kind, name])),
  );
  const again = make(next, names.toReversed());
  await next.ready();
  for (const name of names) assertEquals(again.get(name), ports.get(name));
  for (const name of names) assertEquals(await asked(ports.get(name)![0]), name);
  assertEquals(
    next.status().sockets.map(({ name }) => name),
    names.toReversed().flatMap((name) => [name, name]),
  );
  await next.stop();
  assertEquals(log.lines, []);
});

test("several inherited listeners at port 0 without names are given out in their order, with one warning", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  const ports = [1, 2, 3].map(() => portOf(old.listen(here)));
  old.listen({ hostname: "127.0.0.2", port: 0 });
  const shared = [1, 2].map(() =>
    old.listen({ hostname: "127.0.0.3", port: freePort("127.0.0.3") })
  );
  await old.ready();
  const log = new Log();
  const next = await begin(path, { logger: log });
  next.listen({ hostname: "127.0.0.2", port: 0 });
  for (const listener of shared) {
    next.listen({ hostname: "127.0.0.3", port: portOf(listener) });
  }
  assertEquals(log.lines, []);
  // Without names the first call gets the first listener.
  assertEquals([1, 2, 3].map(() => portOf(next.listen(here))), ports);
  assertEquals(log.lines.length, 1);
  assertMatch(log.lines[0], /3 listeners at 127\.0\.0\.1:0: .*give each one a `name`/);
  for (const port of ports) assert(log.lines[0].includes(`127.0.0.1:${port}`));
  await next.ready();
  await next.stop();
});

test("a release that adds, drops or changes a name, or its address, finds the inherited listeners by address or name", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const port = freePort();
  const apps: Generation[] = [];
  const release = async (make: (app: Generation) => Deno.Listener[]) => {
    const app = await begin(path);
    apps.push(app);
    const ports = make(app).map(portOf);
    await app.ready();
    await apps.at(-2)?.finished;
    return ports;
  };
  const [any, fixed] = await release((app) => [app.listen(here), app.listen({ hostname, port })]);
  assertEquals(fixed, port);
  // Names for listeners without names.
  const named = (app: Generation) => [
    app.listen({ ...here, name: "any" }),
    app.listen({ hostname, port, name: "fixed" }),
  ];
  assertEquals(await release(named), [any, fixed]);
  // No names for listeners with names: the release before is deployed again.
  assertEquals(
    await release((app) => [app.listen({ hostname, port }), app.listen(here)]),
    [fixed, any],
  );
  assertEquals(await release(named), [any, fixed]);
  // With port 0 another name is another listener; with a port it is the same one.
  const [other, renamed] = await release((app) => [
    app.listen({ ...here, name: "other" }),
    app.listen({ hostname, port, name: "renamed" }),
  ]);
  assertNotEquals(other, any);
  assertEquals(renamed, port);
  // The same name with another port is bound anew, and the old listener closed; with port 0 it is the same listener.
  const another = freePort();
  assertEquals(
    await release((app) => [
      app.listen({ hostname, port: another, name: "other" }),
      app.listen({ hostname, port: 0, name: "renamed" }),
    ]),
    [another, port],
  );
  await assertRejects(() => Deno.connect({ hostname, port: other }), ConnectionRefused);
  await apps.at(-1)!.stop();
});

test("a generation refuses a second listener with the same name until the first is closed", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const first = app.listen({ ...here, name: "web" });
  const again = () => app.listen({ path: directory.join("web.sock"), name: "web" });
  assertThrows(again, TypeError, `a listener with the name "web" already`);
  assertEquals(others(directory), []);
  app.listenDatagram({ ...here, name: "web" });
  first.close();
  again();
  await app.stop();
});

/** The names in the directory without those of the control socket. */
function others(directory: Directory): string[] {
  return directory.names().filter((name) => !name.startsWith("app.sock"));
}
