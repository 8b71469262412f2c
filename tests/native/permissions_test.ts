import { assertEquals, assertStringIncludes } from "@std/assert";
import { libcPaths } from "../../ffi/abi.ts";
import { pathStatus } from "../../ffi/file.ts";
import { pause } from "../../lib/time.ts";
import { listen } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

/** What `permitted.ts` promises, the flags that are enough, and what it sees when it keeps it. */
interface Promised {
  name: string;
  fixture: string;
  flags: string[];
  seen: string;
  /** Permissions that look like enough, and are not. */
  narrower?: Record<string, string[]>;
}

/** The parent's directory, in flags. */
const directory = "{directory}";

const ffi = "--allow-ffi";
const unstable = "--unstable-net";
const anyPort = "--allow-net=127.0.0.1";
const newPort = "--allow-net=127.0.0.1:0";
const own = "--allow-net=127.0.0.2";
const ownAndNewPort = "--allow-net=127.0.0.2,127.0.0.1:0";
const ownFiles = [`--allow-read=${directory}`, `--allow-write=${directory}`];
const unixPath = `unix:${directory}/parent.sock`;

const importing: Promised = {
  name: "importing the module",
  fixture: "import",
  flags: [],
  seen: "imported",
};

const received: Promised[] = [
  {
    name: "listening, connecting, sending and receiving descriptors",
    fixture: "plain",
    flags: [ffi],
    seen: "servedsentplain",
  },
  {
    name: "fdListener() of a TCP listener",
    fixture: "listener",
    flags: [ffi, newPort],
    seen: "hello",
  },
  {
    name: "serveHttp() and drain() of a TCP listener",
    fixture: "http",
    flags: [ffi, newPort],
    seen: "hello",
  },
  {
    name: "fdConn() of a TCP connection",
    fixture: "conn",
    flags: [ffi, anyPort],
    seen: "hello",
    narrower: { "a new port alone": [ffi, newPort] },
  },
  {
    name: "fdPacketConn() of a UDP socket",
    fixture: "datagram",
    flags: [ffi, unstable, newPort],
    seen: "udp",
  },
  {
    name: "fdFile()",
    fixture: "file",
    flags: [ffi, "--allow-read=/dev/null", "--allow-write=/dev/null"],
    seen: "1",
  },
];

const loopbackAlone = { "loopback alone": [ffi, unstable, anyPort] };

// The names that stand in for a path have no permission of their own: it is the whole network or none.
const receivedUnix: Promised[] = [
  {
    name: "fdListener() of a unix listener",
    fixture: "unixListener",
    flags: [ffi, "--allow-net"],
    seen: "hello",
    narrower: loopbackAlone,
  },
  {
    name: "serveHttp() and drain() of a unix listener",
    fixture: "unixHttp",
    flags: [ffi, "--allow-net"],
    seen: "hello",
    narrower: loopbackAlone,
  },
  {
    name: "fdConn() of a unix connection",
    fixture: "unixConn",
    flags: [ffi, "--allow-net"],
    seen: "hello",
    narrower: loopbackAlone,
  },
  {
    name: "fdPacketConn() of a unix datagram socket",
    fixture: "unixDatagram",
    flags: [ffi, unstable, "--allow-net"],
    seen: "unixpacket",
    narrower: loopbackAlone,
  },
];

const native: Promised[] = [
  {
    name: "sending a native TCP listener: nothing beyond its own",
    fixture: "nativeListener",
    flags: [ffi, own],
    seen: "127.0.0.2",
  },
  {
    name: "sending the listener of a Deno.serve: nothing beyond its own",
    fixture: "nativeHttp",
    flags: [ffi, own],
    seen: "127.0.0.2",
  },
  {
    name: "sending a native UDP socket: nothing beyond its own",
    fixture: "nativeDatagram",
    flags: [ffi, unstable, own],
    seen: "127.0.0.2",
  },
  {
    name: "sending a native file: nothing beyond its own",
    fixture: "nativeFile",
    flags: [ffi, `--allow-read=${directory}/file`],
    seen: "a file",
  },
  {
    name: "sending a native TCP connection: a new port of loopback beyond its own",
    fixture: "nativeConn",
    flags: [ffi, ownAndNewPort],
    seen: "a connection",
    narrower: { "its own alone": [ffi, own] },
  },
  {
    name: "sending a native unix connection: a new port of loopback beyond its own",
    fixture: "nativeUnixConn",
    flags: [ffi, `--allow-net=${unixPath},127.0.0.1:0`, ...ownFiles],
    seen: "a connection",
    narrower: { "its own alone": [ffi, `--allow-net=${unixPath}`, ...ownFiles] },
  },
];

const [major, minor] = Deno.version.deno.split(".").map(Number);
/** Earlier ones ask for reading and writing where this one asks for the network. */
const netForUnix = major > 2 || minor >= 9;

const promises: (Promised & { ignore?: boolean })[] = [
  importing,
  ...received,
  ...receivedUnix.map((promised) => ({ ...promised, ignore: !netForUnix })),
  ...native.map((promised) => ({
    ...promised,
    ignore: !netForUnix && /Unix/.test(promised.fixture),
  })),
];

/** The C library's one path, for the flag that allows nothing else. */
const exactPath = libcPaths.find((path) => pathStatus(path) !== undefined)!;

for (const { name, fixture, flags, seen, narrower = {}, ignore = false } of promises) {
  const permitted = flags.length === 0 ? "no permission" : `exactly ${flags.join(" ")}`;
  test(`${name}: works with ${permitted}`, { ignore }, async () => {
    using place = await Place.create();
    assertEquals(await place.run(fixture, flags), { seen });
  });

  if (flags.length === 0) continue;

  test(`${name}: works with the exact path of the C library`, { ignore }, async () => {
    using place = await Place.create();
    const exact = flags.map((flag) => flag === ffi ? `${ffi}=${exactPath}` : flag);
    assertEquals(await place.run(fixture, exact), { seen });
  });

  test(
    `${name}: fails with fewer permissions, and names the missing flag`,
    { ignore },
    async (t) => {
      const less = Object.fromEntries(
        flags.map((flag) => [`without ${flag}`, flags.filter((other) => other !== flag)]),
      );
      using place = await Place.create();
      for (const [what, flags] of Object.entries({ ...less, ...narrower })) {
        await t.step(what, async () => assertRefused(await place.run(fixture, flags)));
      }
    },
  );
}

test("a dummy that is not permitted is an error that names the flag", async (t) => {
  const unix = netForUnix ? "--allow-net" : "-A";
  const refused: [string, string[], string][] = [
    ["listener", [ffi], "--allow-net=127.0.0.1:0, beside the addresses of the service itself"],
    ["http", [ffi, own], "--allow-net=127.0.0.1:0, beside the addresses of the service itself"],
    [
      "datagram",
      [ffi, unstable],
      "--allow-net=127.0.0.1:0, beside the addresses of the service itself",
    ],
    ["conn", [ffi, newPort], "--allow-net=127.0.0.1, beside the addresses of the service itself"],
    ["unixListener", [ffi, anyPort], unix],
    ["unixHttp", [ffi, anyPort], unix],
    ["unixConn", [ffi, anyPort], unix],
    ["unixDatagram", [ffi, unstable, anyPort], unix],
  ];
  // In between Deno asks for no permission.
  const isFree = /^2\.8\.([3-9]|\d\d)/.test(Deno.version.deno);
  using place = await Place.create();
  for (const [fixture, flags, enough] of refused) {
    if (isFree && enough === unix) continue;
    await t.step(`${fixture} with ${flags.join(" ")}`, async () => {
      const { name, message } = await place.run(fixture, flags);
      const words =
        "Cannot adopt a descriptor: this process may not make the socket that stands in for it " +
        `for an instant; run it with ${enough}`;
      assertEquals([name, message], ["NotCapable", words]);
    });
  }
});

test("permission for another library is none, and the error names the flag", async () => {
  using place = await Place.create();
  // "libc.so.6" without a directory is a file in the working directory, to Deno.
  for (const path of ["/nonexistent.so", "libc.so.6"]) {
    const { name, message } = await place.run("plain", [`--allow-ffi=${path}`]);
    assertEquals(name, "NotCapable");
    assertStringIncludes(message!, "run again with --allow-ffi or with its exact path");
  }
});

test("a library that is denied leaves the C library to be found", async () => {
  using place = await Place.create();
  const { seen } = await place.run("plain", ["--allow-ffi", "--deny-ffi=/nonexistent.so"]);
  assertEquals(seen, "servedsentplain");
});

/** What `permitted.ts` prints. */
interface Outcome {
  seen?: string;
  name?: string;
  message?: string;
}

/** Refused by Deno, in its words; or, where Deno has none, by the library, which names the flag. */
function assertRefused({ seen, name, message }: Outcome): void {
  assertEquals(seen, undefined, "it worked");
  if (name !== "NotCapable") assertStringIncludes(`${name}: ${message}`, unstable);
}

/** What a child may use of the parent's: a directory with a file and a listener, and a port. */
class Place implements Disposable {
  readonly #directory = new Directory();
  readonly #unix = listen(this.#directory.join("parent.sock"));
  readonly #tcp = Deno.listen({ hostname: "127.0.0.2", port: 0 });

  static async create(): Promise<Place> {
    const place = new Place();
    await Deno.writeTextFile(place.#directory.join("file"), "a file");
    return place;
  }

  /** Runs the fixture with these permissions and no other. */
  async run(fixture: string, flags: string[]): Promise<Outcome> {
    const path = new URL("../programs/permitted.ts", import.meta.url).pathname;
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--no-prompt",
        "--no-config",
        ...flags.map((flag) => flag.replaceAll(directory, this.#directory.path)),
        path,
        fixture,
        this.#directory.path,
        String(this.#tcp.addr.port),
      ],
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const ended = new AbortController();
    let hangs = false;
    const limit = pause(20_000, ended.signal).then(() => {
      hangs = true;
      child.kill("SIGKILL");
    }, () => {});
    const { stdout, stderr } = await child.output();
    ended.abort();
    await limit;
    const decoder = new TextDecoder();
    assertEquals([hangs, decoder.decode(stderr)], [false, ""], `${fixture} ${flags.join(" ")}`);
    return JSON.parse(decoder.decode(stdout));
  }

  [Symbol.dispose](): void {
    this.#tcp.close();
    this.#unix.close();
    this.#directory[Symbol.dispose]();
  }
}
