/**
 * Where a generation listens: the options of its calls against those that Deno has, the names by which the
 * next generation finds its sockets, and sockets of unix datagrams and of other network namespaces.
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
import { c } from "../../ffi/abi.ts";
import { closeAll, dup, Fd, replace } from "../../ffi/fd.ts";
import { libc } from "../../ffi/libc.ts";
import { describeDescriptor } from "../../ffi/proc.ts";
import { acceptQueueLength, connectUnix, setAcceptQueueLength } from "../../ffi/socket.ts";
import { pause } from "../../lib/time.ts";
import { listenerDescriptor, packetConnDescriptor } from "../../lib/native/descriptor.ts";
import {
  fdListener,
  type Generation,
  listen,
  type Logger,
  serveHttp,
  UnixListener,
} from "../../mod.ts";
import { asked, begin, here, portOf, saying } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";

const { AddrInUse, ConnectionRefused } = Deno.errors;
const text = (name: string) => Deno.readTextFileSync(new URL(`../data/${name}`, import.meta.url));
const cert = text("localhost.crt");
const key = text("localhost.key");
const hostname = "127.0.0.1";
/** As many connections wait as the system allows. */
const longest = Number(Deno.readTextFileSync("/proc/sys/net/core/somaxconn"));

/** What a generation logs at the default level. */
class Log implements Logger {
  readonly lines: string[] = [];
  warn = (message: string) => void this.lines.push(message);
  error = (message: string, error?: unknown) => void this.lines.push(`${message}: ${error}`);
}

// The options.

type Call = "serve" | "listen" | "listenTls" | "listenDatagram";

/** Tries one option of a call, on a generation that is not ready. */
type Try = (app: Generation, directory: Directory) => void | Promise<void>;

const answered = async (app: Generation, { addr }: { addr: Deno.Addr }, words: string) => {
  await app.ready();
  assertEquals(await asked((addr as Deno.NetAddr).port), words);
};

/** What every option that Deno has does here; those that are refused have none. */
const options: Record<Call, { honoured: Record<string, Try>; refused: Record<string, unknown> }> = {
  serve: {
    honoured: {
      async transport(app, directory) {
        await answered(app, app.serve({ ...here, transport: "tcp" }, saying("tcp")), "tcp");
        const path = directory.join("web.sock");
        const { addr } = app.serve({ transport: "unix", path }, saying("unix"));
        assertEquals(addr, { transport: "unix", path });
      },
      async port(app) {
        const port = freePort();
        const server = app.serve({ hostname, port }, saying("port"));
        assertEquals(portOf(server), port);
        await answered(app, server, "port");
      },
      hostname(app) {
        const { addr } = app.serve({ hostname: "127.0.0.2", port: 0 }, saying("there"));
        assertEquals((addr as Deno.NetAddr).hostname, "127.0.0.2");
      },
      reusePort(app) {
        const port = portOf(app.serve({ ...here, reusePort: true }, saying("shared")));
        Deno.listen({ hostname, port, reusePort: true }).close();
      },
      tcpBacklog(app) {
        using fd = listenerDescriptor(app.serve({ ...here, tcpBacklog: 7 }, saying("few")));
        assertEquals(acceptQueueLength(fd.raw), 7);
      },
      async path(app, directory) {
        const path = directory.join("web.sock");
        app.serve({ path }, saying("unix"));
        await app.ready();
        using conn = await Deno.connect({ transport: "unix", path });
        await conn.write(bytes("GET / HTTP/1.0\r\n\r\n"));
        assertMatch(await toEnd(conn), /\r\n\r\nunix$/);
      },
      async signal(app) {
        const over = new AbortController();
        const server = app.serve({ ...here, signal: over.signal }, saying("here"));
        await answered(app, server, "here");
        over.abort();
        await server.finished;
        // A turn later nothing of it is left.
        await pause(0);
        const port = portOf(server);
        await assertRejects(() => Deno.connect({ hostname, port }), ConnectionRefused);
        assertEquals(app.status().sockets, []);
      },
      async onError(app) {
        const server = app.serve({
          ...here,
          onError: (error) => new Response(`${(error as Error).message}!`),
        }, () => {
          throw new Error("thrown");
        });
        await answered(app, server, "thrown!");
      },
      onListen(app) {
        const told: Deno.Addr[] = [];
        const { addr } = app.serve({ ...here, onListen: (at) => told.push(at) }, saying("here"));
        assertEquals(told, [addr]);
      },
      async automaticCompression(app) {
        const handler = () =>
          new Response("text ".repeat(1000), { headers: { "content-type": "text/plain" } });
        const ask = async (automaticCompression: boolean) => {
          const server = app.serve({ ...here, automaticCompression }, handler);
          if (app.status().state === "starting") await app.ready();
          using conn = await Deno.connect({ hostname, port: portOf(server) });
          const head = "GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n";
          await conn.write(bytes(`${head}Accept-Encoding: gzip\r\n\r\n`));
          return await toEnd(conn);
        };
        assertMatch(await ask(true), /content-encoding: gzip/i);
        // Before Deno has the option, it compresses always.
        if (!denoOptions("serve").includes("automaticCompression")) return;
        assert(!/content-encoding/i.test(await ask(false)));
      },
      async handler(app) {
        await answered(app, app.serve({ ...here, handler: saying("handler") }), "handler");
      },
      async cert(app) {
        const server = app.serve({ ...here, cert, key }, saying("secret"));
        await app.ready();
        using client = Deno.createHttpClient({ caCerts: [cert], poolMaxIdlePerHost: 0 });
        const response = await fetch(`https://localhost:${portOf(server)}`, { client });
        assertEquals(await response.text(), "secret");
      },
      key(app) {
        assertThrows(() => app.serve({ ...here, cert }, saying("never")), TypeError, "key");
        assertThrows(() => app.serve({ ...here, key }, saying("never")), TypeError, "cert");
      },
      keyFormat(app) {
        app.serve({ ...here, cert, key, keyFormat: "pem" }, saying("secret"));
        assertThrows(
          () => app.serve({ ...here, cert, key, keyFormat: "der" as "pem" }, saying("never")),
          TypeError,
          `\`keyFormat\` has to be "pem"`,
        );
      },
    },
    refused: { cid: 2 },
  },
  listen: {
    honoured: {
      transport(app, directory) {
        const path = directory.join("a.sock");
        assertEquals(app.listen({ ...here, transport: "tcp" }).addr.transport, "tcp");
        assertEquals(app.listen({ transport: "unix", path }).addr, { transport: "unix", path });
      },
      port(app) {
        const port = freePort();
        assertEquals(portOf(app.listen({ hostname, port })), port);
        assertNotEquals(portOf(app.listen({ hostname })), 0);
        assertEquals(portOf(app.listen({ hostname: "127.0.0.2", port: `${port}` as never })), port);
      },
      hostname(app) {
        const { addr } = app.listen({ hostname: "127.0.0.2", port: 0 });
        assertEquals((addr as Deno.NetAddr).hostname, "127.0.0.2");
      },
      reusePort(app) {
        const port = portOf(app.listen({ ...here, reusePort: true }));
        Deno.listen({ hostname, port, reusePort: true }).close();
      },
      tcpBacklog(app) {
        using fd = listenerDescriptor(app.listen({ ...here, tcpBacklog: 7 }));
        assertEquals(acceptQueueLength(fd.raw), 7);
      },
      path(app, directory) {
        const path = directory.join("a.sock");
        assertEquals(app.listen({ path }).addr, { transport: "unix", path });
      },
    },
    refused: { cid: 2 },
  },
  listenTls: {
    honoured: {
      transport(app) {
        assertEquals(app.listenTls({ ...here, cert, key, transport: "tcp" }).addr.transport, "tcp");
      },
      port(app) {
        const port = freePort();
        assertEquals(portOf(app.listenTls({ hostname, port, cert, key })), port);
      },
      hostname(app) {
        const { addr } = app.listenTls({ hostname: "127.0.0.2", port: 0, cert, key });
        assertEquals(addr.hostname, "127.0.0.2");
      },
      reusePort(app) {
        const port = portOf(app.listenTls({ ...here, cert, key, reusePort: true }));
        Deno.listen({ hostname, port, reusePort: true }).close();
      },
      tcpBacklog(app) {
        using fd = listenerDescriptor(app.listenTls({ ...here, cert, key, tcpBacklog: 7 }));
        assertEquals(acceptQueueLength(fd.raw), 7);
      },
      cert(app) {
        const listen = () => app.listenTls({ ...here, key } as never);
        assertThrows(listen, TypeError, "cert");
      },
      key(app) {
        const listen = () => app.listenTls({ ...here, cert } as never);
        assertThrows(listen, TypeError, "key");
      },
      keyFormat(app) {
        app.listenTls({ ...here, cert, key, keyFormat: "pem" });
        const listen = () => app.listenTls({ ...here, cert, key, keyFormat: "der" as "pem" });
        assertThrows(listen, TypeError, "keyFormat");
      },
      async alpnProtocols(app) {
        const alpnProtocols = ["second", "first"];
        using listener = app.listenTls({ ...here, cert, key, alpnProtocols });
        await app.ready();
        const caCerts = [cert];
        const [accepted, conn] = await Promise.all([
          listener.accept().then(async (conn) => {
            await conn.handshake();
            return conn;
          }),
          Deno.connectTls({
            hostname: "localhost",
            port: portOf(listener),
            caCerts,
            alpnProtocols: ["first"],
          }),
        ]);
        assertEquals((await conn.handshake()).alpnProtocol, "first");
        conn.close();
        accepted.close();
      },
    },
    refused: {},
  },
  listenDatagram: {
    honoured: {
      transport(app, directory) {
        const path = directory.join("d.sock");
        assertEquals(app.listenDatagram({ ...here, transport: "udp" }).addr.transport, "udp");
        const unix = app.listenDatagram({ transport: "unixpacket", path });
        assertEquals(unix.addr, { transport: "unixpacket", path });
      },
      port(app) {
        const port = freeUdpPort();
        assertEquals(portOf(app.listenDatagram({ hostname, port })), port);
      },
      hostname(app) {
        const { addr } = app.listenDatagram({ hostname: "127.0.0.2", port: 0 });
        assertEquals((addr as Deno.NetAddr).hostname, "127.0.0.2");
      },
      reuseAddress(app) {
        const again = (port: number) =>
          Deno.listenDatagram({ transport: "udp", hostname, port, reuseAddress: true });
        again(portOf(app.listenDatagram({ ...here, reuseAddress: true }))).close();
        const alone = portOf(app.listenDatagram(here));
        assertThrows(() => again(alone), AddrInUse);
      },
      async loopback(app) {
        const on = app.listenDatagram({ ...here, loopback: true });
        const off = app.listenDatagram({ hostname: "127.0.0.2", port: 0 });
        assertEquals([on, off].map(isLooped), [true, false]);
        await app.ready();
        const next = await begin(app.path);
        // One that is not mentioned is as it was.
        assert(isLooped(next.listenDatagram(here)));
        assert(isLooped(next.listenDatagram({ hostname: "127.0.0.2", port: 0, loopback: true })));
        await next.ready();
        await next.stop();
      },
      path(app, directory) {
        const path = directory.join("d.sock");
        const { addr } = app.listenDatagram({ path });
        assertEquals(addr, { transport: "unixpacket", path });
      },
    },
    // Deno drops it: datagrams wait for nobody to accept them.
    refused: { tcpBacklog: 5 },
  },
};

for (const call of Object.keys(options) as Call[]) {
  const { honoured, refused } = options[call];
  test(`every option that Deno.${call} has, by Deno's own types, is honoured or refused`, () => {
    const known = [...Object.keys(honoured), ...Object.keys(refused)];
    const names = denoOptions(call);
    assert(names.length >= 5, `Deno.${call} seems to have ${names.join(", ") || "no option"}`);
    assertEquals(names.filter((name) => !known.includes(name)), []);
  });

  for (const [option, tries] of Object.entries(honoured)) {
    test(`the option ${option} of ${call}() is honoured`, async () => {
      using directory = new Directory();
      const app = await begin(directory.join("app.sock"));
      try {
        await tries(app, directory);
      } finally {
        await app.stop();
      }
    });
  }

  test(`${call}() refuses by name what it would drop`, async () => {
    using directory = new Directory();
    const path = directory.join("a.sock");
    const app = await begin(directory.join("app.sock"));
    const make = (options: object) => {
      const all = { ...call === "listenTls" && { cert, key }, ...options } as never;
      if (call === "serve") app.serve(all, saying("never"));
      else app[call](all);
    };
    for (const [option, value] of Object.entries({ ...refused, optoin: 1 })) {
      assertThrows(() => make({ ...here, [option]: value }), TypeError, `no option "${option}"`);
    }
    for (const transport of ["vsock", "quic", "TCP", 1]) {
      assertThrows(() => make({ transport }), TypeError, `no transport "${transport}"`);
    }
    const transport = call === "listenDatagram" ? "unixpacket" : "unix";
    if (call !== "listenTls") {
      assertThrows(() => make({ transport }), TypeError, "`path` has to be");
      assertThrows(() => make({ path, port: 1 }), TypeError, `no option "port"`);
    }
    // What is encrypted for TCP would be in the clear there.
    if (call !== "listenDatagram") {
      assertThrows(() => make({ path, cert, key }), TypeError, "no option");
    }
    assertThrows(() => make({ ...here, port: 65536 }), RangeError, "65536");
    assertThrows(() => make({ ...here, port: "http" }), TypeError, 'a number, not the text "http"');
    assertThrows(() => make({ ...here, port: "" }), TypeError, 'a number, not the text ""');
    assertThrows(() => make({ ...here, name: "" }), TypeError, "name");
    assertEquals(app.status().sockets, []);
    assertEquals(others(directory), []);
    await app.stop();
  });
}

test("serveHttp() refuses what says where to listen, and TLS on a unix path", () => {
  using directory = new Directory();
  using listener = Deno.listen(here);
  const path = directory.join("a.sock");
  assertThrows(
    () => serveHttp(listener, { path } as never, saying("never")),
    TypeError,
    `no option "path"`,
  );
  assertEquals(directory.names(), []);
  using unix = listen(path);
  assertThrows(() => serveHttp(unix.fd, { cert, key }, saying("never")), Error, "as TLS needs");
});

/** The options of a function of the namespace Deno, read from the types that this Deno prints. */
function denoOptions(call: Call): string[] {
  const { stdout } = new Deno.Command(Deno.execPath(), { args: ["types"] }).outputSync();
  const types = new TextDecoder().decode(stdout).replaceAll(/\/\*[^]*?\*\//g, "");
  const found = new Set<string>();
  const read = (of: string) => {
    const pattern = `\\binterface ${of}\\b(?:<[^{]*?>)?(?: extends ([^{]+))? \\{([^]*?)\\n  \\}`;
    for (const [, bases, body] of types.matchAll(new RegExp(pattern, "g"))) {
      for (const [, field] of body.matchAll(/^ {4}(?:readonly )?(\w+)\??:/gm)) found.add(field);
      for (const [base] of bases?.matchAll(/\b\w+(?:Options|Init)\b/g) ?? []) read(base);
    }
  };
  const parameters = new RegExp(`\\bfunction ${call}\\(([^]*?)\\n  \\):`, "g");
  for (const [, words] of types.matchAll(parameters)) {
    for (const [name] of words.matchAll(/\b\w+(?:Options|Init|Pem)\b/g)) read(name);
    for (const [, field] of words.matchAll(/\{\s*(\w+)\??:/g)) found.add(field);
  }
  return [...found];
}

/** Whether multicast datagrams that a UDP socket of IPv4 sends come back to this machine (ip(7)). */
function isLooped(socket: Deno.DatagramConn): boolean {
  using fd = packetConnDescriptor(socket);
  const value = new Int32Array(1);
  const size = new Uint32Array([4]);
  const bytes = new Uint8Array(value.buffer);
  const name = [c.IPPROTO_IP, c.IP_MULTICAST_LOOP] as const;
  assertEquals(libc().getsockopt(fd.raw, ...name, bytes, new Uint8Array(size.buffer)), 0);
  return value[0] === 1;
}

// Names.

test("a name finds a listener and a datagram socket in whatever order they are asked for", async () => {
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

test("listeners at port 0 that the order alone tells apart are warned of, once, when another order would swap them", async () => {
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
  // As ever, without names the first is the first.
  assertEquals([1, 2, 3].map(() => portOf(next.listen(here))), ports);
  assertEquals(log.lines.length, 1);
  assertMatch(log.lines[0], /3 listeners at 127\.0\.0\.1:0: .*give each one a `name`/);
  for (const port of ports) assert(log.lines[0].includes(`127.0.0.1:${port}`));
  await next.ready();
  await next.stop();
});

test("a name that comes later, is dropped again, or has another address: what each release finds", async () => {
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
  // Names for what had none.
  const named = (app: Generation) => [
    app.listen({ ...here, name: "any" }),
    app.listen({ hostname, port, name: "fixed" }),
  ];
  assertEquals(await release(named), [any, fixed]);
  // None for what had one: a release that goes back.
  assertEquals(
    await release((app) => [app.listen({ hostname, port }), app.listen(here)]),
    [fixed, any],
  );
  assertEquals(await release(named), [any, fixed]);
  // Another name at a chosen port is another listener; at an address it is the same.
  const [other, renamed] = await release((app) => [
    app.listen({ ...here, name: "other" }),
    app.listen({ hostname, port, name: "renamed" }),
  ]);
  assertNotEquals(other, any);
  assertEquals(renamed, port);
  // The same name at another address: that is bound, and the old one closed. At any port it goes on.
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

test("a name is one listener's in a generation, until that is closed", async () => {
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

// Queues.

test("an adopted TCP listener has room for as many as one of Deno's own, and is never made shorter", () => {
  const least = Math.min(511, longest);
  for (const [given, expected] of [[5, least], [1000, Math.min(1000, longest)]]) {
    for (const way of ["fdListener", "serveHttp"]) {
      const made = Deno.listen(here);
      using fd = listenerDescriptor(made);
      setAcceptQueueLength(fd.raw, given);
      made.close();
      using kept = fd.dup();
      assertEquals(acceptQueueLength(kept.raw), Math.min(given, longest));
      const object = way === "fdListener" ? fdListener(fd) : serveHttp(fd, saying("here"));
      assertEquals(acceptQueueLength(kept.raw), expected, way);
      if ("close" in object) object.close();
      else void object.shutdown();
    }
  }
  // What Deno has made here has what it was made with.
  using short = Deno.listen(here);
  using fd = listenerDescriptor(short);
  setAcceptQueueLength(fd.raw, 5);
  const server = serveHttp(short, saying("here"));
  assertEquals(acceptQueueLength(fd.raw), 5);
  return server.shutdown();
});

test("`backlog` is as long in every generation as that asks for", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const queue = (listener: Deno.Listener) => {
    using fd = listenerDescriptor(listener);
    return acceptQueueLength(fd.raw);
  };
  let before: Generation | undefined;
  for (const backlog of [5, undefined, 700, 0]) {
    const app = await begin(path);
    const listener = app.listen({ ...here, backlog });
    assertEquals(queue(listener), Math.min(backlog ?? 511, longest));
    const server = app.serve({ hostname: "127.0.0.2", port: 0, backlog }, saying("here"));
    using fd = listenerDescriptor(server);
    assertEquals(acceptQueueLength(fd.raw), Math.min(backlog ?? 511, longest));
    await app.ready();
    await before?.finished;
    before = app;
  }
  assertThrows(() => before!.listen({ ...here, backlog: -1 }), TypeError, "backlog");
  assertThrows(() => before!.listen({ ...here, backlog: 1, tcpBacklog: 2 }), TypeError, "backlog");
  await before!.stop();
});

test("so many connections wait at a unix path, on an inherited listener too", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const web = directory.join("web.sock");
  /** How many connections find room at a listener that is not accepting. */
  const room = () => {
    const conns: number[] = [];
    for (let raw; conns.length < 100 && (raw = connectUnix(web, "Cannot connect")) >= 0;) {
      conns.push(raw);
    }
    closeAll(conns);
    return conns.length;
  };
  const old = await begin(path);
  old.listen({ path: web, backlog: 2 });
  // The kernel has room for one more than it is told (net/unix/af_unix.c, `unix_recvq_full`).
  assertEquals(room(), 3);
  await old.ready();
  const next = await begin(path);
  next.listen({ path: web, backlog: 60 });
  await next.ready();
  await old.finished;
  // Those of before wait still.
  assertEquals(3 + room(), 61);
  await next.stop();
});

// Standard streams.

test("a standard stream that is adopted or closed leaves /dev/null, and its number to nothing else", () => {
  const raws = [0, 1, 2];
  const kept = raws.map((raw) => dup(raw));
  const restore = () => raws.forEach((raw) => replace(kept[raw], raw, { keptOnExec: true }));
  try {
    for (const raw of raws) {
      using directory = new Directory();
      const put = (fd: Fd) => replace(fd.raw, raw);
      using native = Deno.listen(here);
      using tcp = listenerDescriptor(native);
      put(tcp);
      const listener = fdListener(raw);
      assertEquals(describeDescriptor(raw), "/dev/null");
      listener.close();
      using unix = listen(directory.join("a.sock"));
      put(unix.fd);
      new UnixListener(new Fd(raw)).close();
      assertEquals(describeDescriptor(raw), "/dev/null");
      put(unix.fd);
      new Fd(raw).close();
      assertEquals(describeDescriptor(raw), "/dev/null");
      put(unix.fd);
      closeAll([raw]);
      assertEquals(describeDescriptor(raw), "/dev/null");
      using next = new Fd(dup(tcp.raw));
      assert(next.raw > 2);
    }
  } finally {
    restore();
    closeAll(kept);
  }
});

// Datagrams of unix sockets.

test("unix datagrams are received at one path through all generations, and the path goes with the last", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const at = directory.join("log.sock");
  const sender = Deno.listenDatagram({ transport: "unixpacket", path: directory.join("sender") });
  const send = (words: string) => sender.send(bytes(words), { transport: "unixpacket", path: at });
  const received = async (socket: Deno.DatagramConn) =>
    new TextDecoder().decode((await socket.receive())[0]);
  // A file that outlived its socket is in nobody's way.
  Deno.listenDatagram({ transport: "unixpacket", path: at }).close();
  const old = await begin(path);
  const first = old.listenDatagram({ transport: "unixpacket", path: at, mode: 0o620 });
  assertEquals(Deno.statSync(at).mode! & 0o777, 0o620);
  assertThrows(() => old.listenDatagram({ path: at }), AddrInUse, at);
  await old.ready();
  await send("one");
  assertEquals(await received(first), "one");
  assertEquals(old.status().sockets.map(({ kind, address }) => [kind, address]), [
    ["datagram", JSON.stringify(at)],
  ]);
  const { ino } = Deno.statSync(at);
  const next = await begin(path);
  await send("two");
  assertEquals(await received(first), "two");
  const second = next.listenDatagram({ transport: "unixpacket", path: at });
  assertEquals(second.addr, { transport: "unixpacket", path: at });
  await next.ready();
  await send("three");
  assertEquals(await received(second), "three");
  await old.finished;
  assertEquals(Deno.statSync(at).ino, ino);
  // What it sends comes from where it is reached.
  await second.send(bytes("answer"), sender.addr);
  const [words, from] = await sender.receive();
  assertEquals(new TextDecoder().decode(words), "answer");
  assertEquals(from, { transport: "unixpacket", path: at });
  await next.stop();
  assertEquals(others(directory), ["sender"]);
  sender.close();
});

test("a datagram path that something else has is left alone", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const [file, stream, taken] = ["file", "stream", "taken"].map((name) => directory.join(name));
  Deno.writeTextFileSync(file, "text");
  using _listener = listen(stream);
  const app = await begin(path);
  for (const at of [file, stream]) {
    assertThrows(() => app.listenDatagram({ transport: "unixpacket", path: at }), AddrInUse);
  }
  assertEquals(Deno.readTextFileSync(file), "text");
  app.listenDatagram({ path: taken });
  Deno.removeSync(taken);
  const other = Deno.listenDatagram({ transport: "unixpacket", path: taken });
  await app.stop();
  assertEquals(others(directory), ["file", "stream", "taken"]);
  other.close();
});

// Networks.

const noNetwork = await without("unshare", "-n", "ip", "link", "set", "lo", "up");
if (noNetwork) {
  console.log(`listen_address_test.ts: network namespaces are not tested: ${noNetwork}`);
}

test(
  "a listener of another network namespace is warned of where the generations do not share one, and marked in the status",
  {
    ignore: noNetwork !== undefined,
  },
  async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const inside = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "-"];
    const run = (...through: string[]) => new Child("network.ts", [path], { through });
    const report = async (child: Child) => JSON.parse(await child.line());

    await using first = run(...inside);
    assertEquals(await report(first), { generation: 1, warnings: [], elsewhere: [] });
    await using second = run(...inside);
    const strange = await report(second);
    assertEquals(strange.generation, 2);
    assertEquals(strange.elsewhere, [["listener", true], ["datagram", true], [
      "listener",
      null,
    ]]);
    // The third is on a path: that leads to it wherever there is the file.
    assertEquals(strange.warnings.length, 2);
    assertMatch(
      strange.warnings[0],
      /^The listener at 127\.0\.0\.1:\d+ .*network namespace.*control path/,
    );
    assertMatch(strange.warnings[1], /^The datagram socket at 127\.0\.0\.1:\d+ /);
    const { code, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", new URL("../../lib/cli.ts", import.meta.url).pathname, "status", path],
    }).output();
    assertEquals(code, 0);
    const lines = new TextDecoder().decode(stdout).split("\n");
    assertMatch(lines[2], /^listens .*, 0 connections, in another network namespace$/);
    assertMatch(lines[3], /^datagrams .*, in another network namespace$/);
    assertMatch(lines[4], /^listens .*web\.sock", 0 connections$/);
    await second.tell("stop");
    await second.ended();
  },
);

test(
  "a listener that a service was given from outside its network namespace is marked, and the next generation does not warn of it",
  {
    ignore: noNetwork !== undefined,
  },
  async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    const outside = directory.join("outside.sock");
    await using giver = new Child("give_listener.ts", [outside]);
    const port = await giver.line();
    await using first = new Child("network.ts", [path, port, outside], {
      through: ["unshare", "-n"],
    });
    const given = JSON.parse(await first.line());
    assertEquals(given.elsewhere[0], ["listener", true]);
    assertEquals(given.warnings.length, 1);
    const enter = ["nsenter", "-t", `${first.pid}`, "-n"];
    await using second = new Child("network.ts", [path, port], { through: enter });
    const next = JSON.parse(await second.line());
    assertEquals([next.generation, next.warnings], [2, []]);
    assertEquals(next.elsewhere[0], ["listener", true]);
    await second.tell("stop");
    await second.ended();
  },
);

/** Why a command cannot be run, if so. */
async function without(command: string, ...args: string[]): Promise<string | undefined> {
  try {
    const { success, stderr } = await new Deno.Command(command, { args }).output();
    return success ? undefined : new TextDecoder().decode(stderr).trim();
  } catch (error) {
    return (error as Error).message;
  }
}

/** What is in the directory beside what the generations need. */
function others(directory: Directory): string[] {
  return directory.names().filter((name) => !name.startsWith("app.sock"));
}

function bytes(words: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(words);
}

/** Everything that comes, as text. */
async function toEnd(conn: Deno.Conn): Promise<string> {
  return await new Response(conn.readable).text();
}

function freeUdpPort(): number {
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  socket.close();
  return portOf(socket);
}
