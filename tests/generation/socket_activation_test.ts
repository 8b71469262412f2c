/**
 * Generations on the sockets of a service manager.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { pathStatus } from "../../ffi/file.ts";
import { hasPython } from "../support/activation.ts";
import { cli } from "../support/cli.ts";
import { Directory } from "../support/directory.ts";
import { freePort, reachable } from "../support/free_port.ts";
import { Generations } from "../support/generations.ts";
import { test } from "../support/guard.ts";
import { Load } from "../support/load.ts";
import { succeeds } from "../support/succeeds.ts";
import { asked, Service, tcp } from "../support/unit_service.ts";
import { until } from "../support/until.ts";

const ignore = !hasPython;
if (ignore) console.log("socket_activation_test.ts: without python3, no process gets descriptors");

/** Addresses of the socket unit, and those that the program asks for. */
const matching: [bound: string, asked: object][] = [
  ["[::]", {}],
  ["[::]", { hostname: "::" }],
  ["0.0.0.0", {}],
  ["127.0.0.1", { hostname: "127.0.0.1" }],
  ["127.0.0.1", { hostname: "localhost" }],
];

for (const [bound, address] of matching) {
  test(`serve() with ${JSON.stringify(address)} serves on a socket unit's ${bound}`, {
    ignore,
  }, async () => {
    using directory = new Directory();
    const port = freePort("0.0.0.0");
    const spec = `tcp:${bound.replace(/[[\]]/g, "")}:${port}=app.socket`;
    const serve = JSON.stringify({ ...address, port });
    await using service = new Service(directory, [spec], ["--serve", serve]);
    assertEquals(await service.until(/^variables: /), "variables: 1 ");
    await service.serving();
    assertEquals(await asked(tcp(port)), "1");
    await service.restarted(2);
    assertEquals(await asked(tcp(port)), "2");
    await service.stopped();
    assertEquals(await reachable(port), false);
  });
}

test("a control: an address that is not the socket unit's is in use", { ignore }, async () => {
  using directory = new Directory();
  const port = freePort("0.0.0.0");
  const serve = JSON.stringify({ hostname: "127.0.0.1", port });
  await using service = new Service(directory, [`tcp::::${port}=web`], ["--serve", serve]);
  const { code, stderr } = await service.ended();
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /AddrInUse: .* of the previous generation or a socket unit, is bound to \[?::/,
  );
});

test("several sockets are found by name or address, in any order", { ignore }, async () => {
  const [a, b, c] = [freePort(), freePort(), freePort()];
  const specs = [`tcp:127.0.0.1:${a}=a`, `tcp:127.0.0.1:${b}=b`, `tcp:127.0.0.1:${c}=app.socket`];
  const serve = [
    { hostname: "127.0.0.1", port: c },
    { name: "b", hostname: "10.0.0.1", port: 1 },
    { name: "a", path: "/elsewhere.sock" },
  ].flatMap((address) => ["--serve", JSON.stringify(address)]);
  for (const order of [specs, specs.toReversed()]) {
    using directory = new Directory();
    await using service = new Service(directory, order, serve);
    await service.serving();
    const answers = () => Promise.all([a, b, c].map((port) => asked(tcp(port))));
    assertEquals(await answers(), ["1 a", "1 b", "1"]);
    await service.restarted(2);
    assertEquals(await answers(), ["2 a", "2 b", "2"]);
    await service.restarted(3);
    assertEquals(await answers(), ["3 a", "3 b", "3"]);
    const { stdout } = await cli("status", service.control);
    for (const port of [a, b, c]) assertStringIncludes(stdout, `127.0.0.1:${port}`);
    await service.stopped();
  }
});

test("a port that is asked for by name is served at the path of the socket unit", {
  ignore,
}, async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const serve = ["--serve", JSON.stringify({ hostname: "127.0.0.1", port: 8000, name: "web" })];
  await using service = new Service(directory, [`unix:${path}=web`], serve);
  for (const generation of [1, 2, 3]) {
    if (generation > 1) await service.restarted(generation);
    else await service.serving();
    assertEquals(await asked({ transport: "unix", path }), `${generation} web`);
  }
  await service.stopped();
  assertEquals(pathStatus(path)?.kind, "socket");
});

test(
  "the path of a socket unit stays: after stop(), a restart, and SIGKILL",
  { ignore },
  async () => {
    for (const ending of ["stop", "restart", "kill"]) {
      using directory = new Directory();
      const path = directory.join("app.sock");
      const serve = ["--serve", JSON.stringify({ path })];
      await using service = new Service(directory, [`unix:${path}=app.socket`], serve);
      let pid = await service.serving();
      const { ino } = pathStatus(path)!;
      assertEquals(await asked({ transport: "unix", path }), "1");
      if (ending !== "stop") {
        pid = await service.restarted(2);
        assertEquals(await asked({ transport: "unix", path }), "2");
      }
      if (ending === "kill") Deno.kill(pid, "SIGKILL");
      else await service.stopped();
      // All descriptors of the socket are closed by then.
      await until(() =>
        asked({ transport: "unix", path }).then(() => false, (error) => {
          return error instanceof Deno.errors.ConnectionRefused;
        })
      );
      assertEquals(pathStatus(path)?.ino, ino, ending);
    }
  },
);

test("what the program does not ask for is closed with a warning, and its path stays", {
  ignore,
}, async () => {
  using directory = new Directory();
  const [port, other] = [freePort(), freePort()];
  const [stream, datagram] = [directory.join("app.sock"), directory.join("datagram.sock")];
  const specs = [
    `tcp:127.0.0.1:${other}=other`,
    `unix:${stream}=app.socket`,
    `unixgram:${datagram}=app.socket`,
    `tcp:127.0.0.1:${port}=web`,
    "pipe:text=spare",
  ];
  const serve = ["--serve", JSON.stringify({ hostname: "127.0.0.1", port })];
  await using service = new Service(directory, specs, serve);
  const warning = await service.until(/^warning: Closed what /);
  assertMatch(warning, /^warning: Closed what the service manager had handed over/);
  for (const what of [`127.0.0.1:${other}`, stream, datagram, 'descriptor "spare"']) {
    assertStringIncludes(warning, what);
  }
  assertEquals(await reachable(other), false);
  assertEquals(await asked(tcp(port)), "1");
  await service.restarted(2);
  await service.stopped();
  for (const path of [stream, datagram]) assert(pathStatus(path)?.kind === "socket", path);
});

test("datagram sockets, and descriptors that are no sockets", { ignore }, async () => {
  using directory = new Directory();
  const port = freePort();
  const path = directory.join("datagram.sock");
  const file = directory.join("cache");
  Deno.writeTextFileSync(file, "written");
  const specs = [
    "pipe:piped=events",
    `udp:127.0.0.1:${port}=dns.socket`,
    `unixgram:${path}=log.socket`,
    `file:${file}=cache`,
  ];
  const args = ["--take", "events", "--take", "cache", "--take", "other"];
  for (
    const address of [{ transport: "udp", hostname: "127.0.0.1", port }, {
      path,
      transport: "unixpacket",
    }]
  ) {
    args.push("--datagram", JSON.stringify(address));
  }
  await using service = new Service(directory, specs, args);
  for (const taken of ["events piped", "cache written", "other nothing"]) {
    await service.until(`taken: ${taken}`);
  }
  await service.serving();
  const client = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  const at = directory.join("client.sock");
  const unixClient = Deno.listenDatagram({ transport: "unixpacket", path: at });
  const answers = async () => {
    await client.send(new Uint8Array(1), { transport: "udp", hostname: "127.0.0.1", port });
    await unixClient.send(new Uint8Array(1), { transport: "unixpacket", path });
    const received = [await client.receive(), await unixClient.receive()];
    return received.map(([bytes]) => new TextDecoder().decode(bytes));
  };
  assertEquals(await answers(), ["1", "1"]);
  await service.restarted(2);
  assertEquals(await answers(), ["2", "2"]);
  client.close();
  unixClient.close();
  await service.stopped();
  assert(pathStatus(path)?.kind === "socket");
});

test("a restart under load: no request fails, and no generation inherits the variables", {
  ignore,
}, async () => {
  using directory = new Directory();
  const port = freePort();
  const serve = ["--serve", JSON.stringify({ hostname: "127.0.0.1", port })];
  await using service = new Service(directory, [`tcp:127.0.0.1:${port}=web`], serve);
  await service.serving();
  const load = new Load(tcp(port));
  for (const generation of [2, 3]) {
    await load.more(50);
    const { code } = await cli("restart", service.control);
    assertEquals(code, 0);
    assertEquals(await service.until(/^variables: /), `variables: ${generation} `);
    await service.serving(generation);
  }
  await load.more(50);
  assertEquals([await load.stop(), [...load.failures]], [0, []]);
  assertEquals(load.answers.size, 3);
});

const hasActivate = await succeeds(["systemd-socket-activate", "--version"]);
if (!hasActivate) {
  console.log("socket_activation_test.ts: systemd-socket-activate is not installed");
}

test("a service under systemd-socket-activate serves and restarts", {
  ignore: !hasActivate,
}, async () => {
  using directory = new Directory();
  const [port, other] = [freePort(), freePort()];
  const control = directory.join("control.sock");
  const path = directory.join("app.sock");
  const at = [{ hostname: "127.0.0.1", port }, { name: "named", hostname: "127.0.0.1", port: 1 }, {
    path,
  }];
  const args = at.flatMap((address) => ["--serve", JSON.stringify(address)]);
  const listening = [`127.0.0.1:${port}`, `127.0.0.1:${other}`, path];
  const through = ["systemd-socket-activate", ...listening.flatMap((each) => ["-l", each])];
  through.push(
    "--fdname=web:named:app.socket",
    ...["PATH", "HOME", "TEST_MARK"].flatMap((name) => ["-E", name]),
  );
  await using service = new Generations("./unit_service.ts", [control, ...args], { through });
  await until(() => pathStatus(path) !== undefined);
  // The program is started for the first connection.
  assertEquals(await asked(tcp(port)), "1");
  await service.until(/^serving: 1 /);
  assertEquals(await asked(tcp(other)), "1 named");
  assertEquals((await cli("restart", control)).code, 0);
  await service.until(/^serving: 2 /);
  assertEquals(await asked(tcp(port)), "2");
  assertEquals(await asked(tcp(other)), "2 named");
  assertEquals(await asked({ transport: "unix", path }), "2");
  assertEquals((await cli("stop", control)).code, 0);
  assert(pathStatus(path) !== undefined);
});
