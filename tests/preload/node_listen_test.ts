/**
 * `listen()` of node's servers in a preloaded program: its forms, and its errors.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { answerAt, Preloaded } from "../support/preloaded.ts";

/** What every program here begins with: `listen` gives the error of a server, or undefined. */
const head = `
  import { createServer } from "node:http";
  import process from "node:process";
  const serve = () => createServer((_request, response) => response.end(String(process.pid)));
  const listen = (server, ...where) => new Promise((resolve) => {
    server.once("error", resolve);
    server.listen(...where, () => resolve(undefined));
  });
  const print = (name, value) => console.log(name + ": " + JSON.stringify(value));
`;

/** The value that a program prints by this name. */
async function printed(service: Preloaded, name: string): Promise<unknown> {
  return JSON.parse((await service.until(new RegExp(`^${name}: `))).slice(name.length + 2));
}

test("the errors of listen() are those of node: code, errno, syscall, address and port", async () => {
  using directory = new Directory();
  const port = freePort();
  const file = directory.join("file");
  Deno.writeTextFileSync(file, "");
  const tooLong = directory.join("a".repeat(120));
  const source = `${head}
    const properties = async (...where) => {
      const { code, errno, syscall, address, port } = await listen(serve(), ...where);
      return [code, errno, syscall, address, port];
    };
    await listen(serve(), ${port}, "127.0.0.1");
    print("in use", await properties(${port}, "127.0.0.1"));
    print("elsewhere", await properties(${port}, "192.0.2.1"));
    print("a file", await properties(${JSON.stringify(file)}));
    print("no directory", await properties(${JSON.stringify(file + "s/a")}));
    print("too long", await properties(${JSON.stringify(tooLong)}));`;
  await using service = new Preloaded(directory, source);
  const expected: Record<string, unknown[]> = {
    "in use": ["EADDRINUSE", -98, "listen", "127.0.0.1", port],
    "elsewhere": ["EADDRNOTAVAIL", -99, "listen", "192.0.2.1", port],
    "a file": ["EADDRINUSE", -98, "listen", file, -1],
    "no directory": ["ENOENT", -2, "listen", `${file}s/a`, -1],
    "too long": ["EINVAL", -22, "listen", tooLong, -1],
  };
  for (const [name, properties] of Object.entries(expected)) {
    assertEquals(await printed(service, name), properties);
  }
});

test("a server that listens with the handle of another answers in both generations", async () => {
  using directory = new Directory();
  const port = freePort();
  const source = `${head}
    const first = serve();
    await listen(first, ${port}, "127.0.0.1");
    const second = serve();
    print("error", await listen(second, first) ?? null);
    print("port", second.address().port);`;
  await using service = new Preloaded(directory, source);
  assertEquals(await printed(service, "error"), null);
  assertEquals(await printed(service, "port"), port);
  const pid = await service.next();
  assertEquals(await answerAt(port), String(pid));
});

test("readableAll and writableAll add to the permissions of a path, in both generations", async () => {
  using directory = new Directory();
  const path = directory.join("http.sock");
  const source = `${head}
    process.umask(0o077);
    const where = { path: ${JSON.stringify(path)}, readableAll: true, writableAll: true };
    print("error", await listen(serve(), where) ?? null);`;
  await using service = new Preloaded(directory, source);
  assertEquals(await printed(service, "error"), null);
  assertEquals(Deno.statSync(path).mode! & 0o777, 0o766);
  await service.next();
  assertEquals(Deno.statSync(path).mode! & 0o777, 0o766);
});

test("a path keeps the permissions that the program has given it, until it does so again", async () => {
  using directory = new Directory();
  const path = directory.join("http.sock");
  const source = `${head}
    import { chmodSync, existsSync, statSync } from "node:fs";
    const path = ${JSON.stringify(path)};
    await listen(serve(), path);
    print("mode", statSync(path).mode & 0o777);
    chmodSync(path, 0o777);
    print("set", true);`;
  await using service = new Preloaded(directory, source);
  assert(await printed(service, "mode") !== 0o777);
  await printed(service, "set");
  await service.next();
  assertEquals(await printed(service, "mode"), 0o777);
});

test("a replaced program that closes its servers in its listener of SIGTERM gets no error", async () => {
  using directory = new Directory();
  const [port, other] = [freePort(), freePort()];
  const source = `${head}
    import { createServer as createNetServer } from "node:net";
    const servers = [serve(), createNetServer((socket) => socket.end())];
    await listen(servers[0], ${port}, "127.0.0.1");
    await listen(servers[1], ${other}, "127.0.0.1");
    process.on("SIGTERM", async () => {
      const close = (server) => new Promise((resolve) => server.close(resolve));
      const errors = await Promise.all(servers.map(close));
      print("errors", errors.map((error) => error?.code ?? null));
      const again = await Promise.all(servers.map(close));
      print("again", again.map((error) => error?.code ?? null));
      process.exit();
    });
    print("listening", true);`;
  await using service = new Preloaded(directory, source);
  await printed(service, "listening");
  const pid = await service.next();
  assertEquals(await printed(service, "errors"), [null, null]);
  const notRunning = "ERR_SERVER_NOT_RUNNING";
  assertEquals(await printed(service, "again"), [notRunning, notRunning]);
  Deno.kill(pid, "SIGTERM");
  assertEquals(await printed(service, "errors"), [null, null]);
});
