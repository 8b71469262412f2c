/**
 * The options of serve(), listen(), listenTls() and listenDatagram(), against those of Deno's own calls.
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
import { libc } from "../../ffi/libc.ts";
import { acceptQueueLength } from "../../ffi/socket_options.ts";
import { pause } from "../../lib/time.ts";
import { listenerDescriptor, packetConnDescriptor } from "../../lib/native/descriptor.ts";
import { type Generation, listen, serveHttp } from "../../mod.ts";
import { asked, begin, here, portOf, saying } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";

const { AddrInUse, ConnectionRefused } = Deno.errors;
const text = (name: string) => Deno.readTextFileSync(new URL(`../data/${name}`, import.meta.url));
const cert = text("localhost.crt");
const key = text("localhost.key");
const hostname = "127.0.0.1";

type Call = "serve" | "listen" | "listenTls" | "listenDatagram";

/** Tries one option of a call, on a generation that is not ready. */
type Try = (app: Generation, directory: Directory) => void | Promise<void>;

const answered = async (app: Generation, { addr }: { addr: Deno.Addr }, words: string) => {
  await app.ready();
  assertEquals(await asked((addr as Deno.NetAddr).port), words);
};

/** A test for each option that is honoured, and a value for each one that is refused. */
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
        // The listener is closed a turn later.
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
        // Versions of Deno without the option always compress.
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
        // Without the option, the inherited socket keeps its setting.
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
    // Deno ignores it: a datagram socket has no accept queue.
    refused: { tcpBacklog: 5 },
  },
};

for (const call of Object.keys(options) as Call[]) {
  const { honoured, refused } = options[call];
  test(`${call}() honours or refuses every option of the types of Deno.${call}()`, () => {
    const known = [...Object.keys(honoured), ...Object.keys(refused)];
    const names = denoOptions(call);
    assert(names.length >= 5, `Deno.${call} seems to have ${names.join(", ") || "no option"}`);
    assertEquals(names.filter((name) => !known.includes(name)), []);
  });

  for (const [option, tries] of Object.entries(honoured)) {
    test(`${call}() honours the option ${option}`, async () => {
      using directory = new Directory();
      const app = await begin(directory.join("app.sock"));
      try {
        await tries(app, directory);
      } finally {
        await app.stop();
      }
    });
  }

  test(`${call}() refuses options and transports that it would ignore, and names them`, async () => {
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
    // A unix path has no TLS: the certificate would be ignored.
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

test("serveHttp() refuses options of an address, and TLS on a unix path", () => {
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

/** Whether multicast datagrams of a UDP socket of IPv4 are looped back to this machine (ip(7)). */
function isLooped(socket: Deno.DatagramConn): boolean {
  using fd = packetConnDescriptor(socket);
  const value = new Int32Array(1);
  const size = new Uint32Array([4]);
  const bytes = new Uint8Array(value.buffer);
  const name = [c.IPPROTO_IP, c.IP_MULTICAST_LOOP] as const;
  assertEquals(libc().getsockopt(fd.raw, ...name, bytes, new Uint8Array(size.buffer)), 0);
  return value[0] === 1;
}

/** The names in the directory without those of the control socket. */
function others(directory: Directory): string[] {
  return directory.names().filter((name) => !name.startsWith("app.sock"));
}

function bytes(words: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(words);
}

/** Reads to the end, as text. */
async function toEnd(conn: Deno.Conn): Promise<string> {
  return await new Response(conn.readable).text();
}

function freeUdpPort(): number {
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  socket.close();
  return portOf(socket);
}
