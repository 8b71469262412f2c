/**
 * The sockets and files of a generation: when they are closed, and which of them the next generation gets.
 *
 * @module
 */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { listen } from "../../mod.ts";
import { asked, begin, here, portOf, quietly, saying } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";

const { AddrInUse, ConnectionRefused } = Deno.errors;

function refused(port: number): Promise<unknown> {
  return assertRejects(() => Deno.connect({ hostname: "127.0.0.1", port }), ConnectionRefused);
}

test("a socket that the program closes is unbound, and its path removed", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const server = app.serve(quietly, saying("here"));
  const listener = app.listen(here);
  const datagrams = app.listenDatagram(here);
  app.listen({ path: directory.join("web.sock") }).close();
  await app.ready();
  assertEquals(directory.names(), ["app.sock"]);
  listener.close();
  await refused(portOf(listener));
  await server.shutdown();
  await refused(portOf(server));
  const { port } = datagrams.addr as Deno.NetAddr;
  datagrams.close();
  Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port }).close();
  assertEquals(app.status().sockets, []);
  const again = app.serve({ ...here, port: portOf(server) }, saying("again"));
  assertEquals(await asked(portOf(again)), "again");
  await app.stop();
});

test("a server that is shut down refuses connections while it finishes its answers", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const answer = Promise.withResolvers<Response>();
  const asks = Promise.withResolvers<void>();
  const server = app.serve(quietly, () => {
    asks.resolve();
    return answer.promise;
  });
  await app.ready();
  const slow = asked(portOf(server));
  await asks.promise;
  const shutdown = server.shutdown();
  // Deno closes the listener a turn later.
  await new Promise((resolve) => setTimeout(resolve, 10));
  await refused(portOf(server));
  answer.resolve(new Response("late"));
  assertEquals(await slow, "late");
  await shutdown;
  await app.stop();
});

test("serve() and listenTls() with a bad certificate bind nothing, and an inherited listener stays for the next call", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const bad = { cert: "no certificate", key: "no key" };
  const old = await begin(path);
  const port = portOf(old.serve(quietly, saying("old")));
  const free = freePort();
  assertThrows(() => old.serve({ ...here, port: free, ...bad }, saying("never")));
  assertThrows(() => old.listenTls({ ...here, port: free, ...bad }));
  await refused(free);
  await old.ready();
  const next = await begin(path);
  assertThrows(() => next.serve({ ...here, ...bad }, saying("never")));
  assertEquals(portOf(next.serve(quietly, saying("next"))), port);
  await next.ready();
  assertEquals(await asked(port), "next");
  await next.stop();
});

test("listen() finds an inherited listener by the address it is bound to, and names one that covers the address", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const [one, two, three] = [freePort(), freePort(), freePort("0.0.0.0")];
  const old = await begin(path);
  old.listen({ hostname: "localhost", port: one });
  old.listen({ hostname: "127.0.0.1", port: two });
  old.listen({ port: three });
  await old.ready();
  const next = await begin(path);
  const named = next.listen({ hostname: "127.0.0.1", port: one });
  const shared = next.listen({ hostname: "127.0.0.1", port: two, reusePort: true });
  assertEquals([portOf(named), portOf(shared)], [one, two]);
  assertThrows(
    () => next.listen({ hostname: "127.0.0.1", port: three }),
    AddrInUse,
    `is bound to 0.0.0.0:${three}`,
  );
  await next.ready();
  await next.stop();
});

test("`mode` changes the permissions of an inherited path, and of the control socket", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const web = directory.join("web.sock");
  const modes = () => [path, web].map((each) => Deno.statSync(each).mode! & 0o777);
  const old = await begin(path);
  old.listen({ path: web });
  await old.ready();
  assertEquals(modes(), [0o600, 0o600]);
  const next = await begin(path, { mode: 0o660 });
  next.listen({ path: web, mode: 0o666 });
  await next.ready();
  assertEquals(modes(), [0o660, 0o666]);
  await old.finished;
  // Without `mode` they stay as they are.
  const last = await begin(path);
  last.listen({ path: web });
  await last.ready();
  assertEquals(modes(), [0o660, 0o666]);
  await last.stop();
});

test("a handover does not remove a path that another service has bound meanwhile", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const web = directory.join("web.sock");
  const old = await begin(path);
  old.listen({ path: web });
  await old.ready();
  using another = listen(web, { replace: true });
  const next = await begin(path);
  await next.ready();
  await old.finished;
  await next.stop();
  using _client = await Deno.connect({ transport: "unix", path: web });
  using _conn = await another.accept();
});

test("open() hands over the file that was opened last at a path", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = directory.join("log");
  const append = { create: true, append: true };
  const old = await begin(path);
  const first = old.open(log, append);
  write(first, "one ");
  first.close();
  Deno.renameSync(log, `${log}.1`);
  using second = old.open(log, append);
  write(second, "two ");
  for (let i = 0; i < 20; i++) old.open(directory.join("other"), append).close();
  await old.ready();
  assertEquals(old.status().kept, [log]);
  const next = await begin(path);
  using inherited = next.open(log, append);
  write(inherited, "three");
  await next.ready();
  assertEquals([log, `${log}.1`].map((each) => Deno.readTextFileSync(each)), ["two three", "one "]);
  await next.stop();
});

test("open() opens a rotated log anew, and goes on with a removed file", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const [log, gone] = [directory.join("log"), directory.join("gone")];
  const append = { create: true, append: true };
  const old = await begin(path);
  using before = old.open(log, append);
  using removed = old.open(gone, append);
  write(before, "old");
  write(removed, "kept");
  Deno.renameSync(log, `${log}.1`);
  Deno.writeTextFileSync(log, "");
  Deno.removeSync(gone);
  await old.ready();
  const next = await begin(path);
  using after = next.open(log, append);
  using nameless = next.open(gone, { read: true });
  write(after, "new");
  assertEquals([log, `${log}.1`].map((each) => Deno.readTextFileSync(each)), ["new", "old"]);
  assertEquals(nameless.statSync().size, 4);
  await next.ready();
  await next.stop();
});

function write(file: Deno.FsFile, words: string): void {
  file.writeSync(new TextEncoder().encode(words));
}

test("listen() during the probation of the next generation accepts nothing, and while draining it throws", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const old = await begin(path);
  const slow = Promise.withResolvers<Response>();
  const asks = Promise.withResolvers<void>();
  const server = old.serve(quietly, () => {
    asks.resolve();
    return slow.promise;
  });
  await old.ready();
  const answer = asked(portOf(server));
  await asks.promise;
  const next = await begin(path, { probation: 60_000 });
  next.serve(quietly, saying("next"));
  await next.ready();
  // The old generation has stopped accepting, and waits for the probation.
  const late = old.listen(here);
  using client = await Deno.connect({ hostname: "127.0.0.1", port: portOf(late) });
  const read = client.read(new Uint8Array(1));
  void next.stop();
  slow.resolve(new Response("after all"));
  assertEquals(await answer, "after all");
  await old.finished;
  // The connection is closed or reset.
  assert(await read.catch(() => null) === null);
  assertThrows(
    () => old.serve(quietly, saying("never")),
    TypeError,
    "this generation is draining, or has stopped",
  );
  await next.finished;
});

test("status() counts connections at the listener that accepted them, also at several addresses with the same port", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const hostnames = ["127.0.0.1", "127.0.0.2", "::1"];
  const port = freePort(...hostnames);
  const listeners = hostnames.map((hostname) => app.listen({ hostname, port }));
  await app.ready();
  using stack = new DisposableStack();
  for (const [index, listener] of listeners.entries()) {
    for (let i = 0; i <= index; i++) {
      stack.use(await Deno.connect({ hostname: hostnames[index], port }));
      stack.use(await listener.accept());
    }
  }
  assertEquals(app.status().sockets.map(({ connections }) => connections), [1, 2, 3]);
  stack.dispose();
  await app.stop();
});
