/**
 * Errors of start(), of listening and of keep(): each names the attempt, the cause and a remedy.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { Channel } from "../../lib/generation/channel.ts";
import { protocolVersion } from "../../lib/generation/protocol.ts";
import { connect, HandoverError, start } from "../../mod.ts";
import { begin } from "../support/in_process.ts";
import { Child, programPath } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { KeptLog } from "../support/kept_log.ts";
import { succeeds } from "../support/succeeds.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const isRoot = Deno.uid() === 0;
const withoutProc = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$0" "$@"'];
// Deno 2.8.2 itself needs /proc.
const canUnmount = isRoot && await succeeds(["env", ...withoutProc, Deno.execPath(), "eval", "1"]);
if (!canUnmount) {
  console.log(
    "start_errors_test.ts: a missing /proc is not tested: that needs a mount namespace, and a Deno that " +
      "runs without /proc",
  );
}
/** Runs a command as another user, which has to be able to read these files. */
const asOther = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
const program = programPath("print_start_error.ts");
const canBeOther = isRoot &&
  await succeeds([
    "env",
    ...asOther,
    "sh",
    "-c",
    `test -r ${program} && test -x ${Deno.execPath()}`,
  ]);
if (!canBeOther) {
  console.log(
    "start_errors_test.ts: an unwritable directory is not tested: that needs another user",
  );
}

type ErrorClass = new (message?: string) => Error;

test("start() rejects an invalid path by its defect before it opens anything", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const long = directory.join("x".repeat(110));
  const wrong: [unknown, ErrorClass, string][] = [
    [undefined, TypeError, "of type undefined, where one such as"],
    [null, TypeError, "is null"],
    [8000, TypeError, "is of type number"],
    [{ path }, TypeError, "is of type object"],
    ["", TypeError, "is empty"],
    [
      `file://${path}`,
      TypeError,
      `Cannot start at "file://${path}": the control socket has a path, `,
    ],
    [new URL(`file://${path}`), TypeError, "give the `pathname` of a file URL"],
    ["http://127.0.0.1:80", TypeError, "and no URL"],
    [directory.join("a\0b"), TypeError, "the path holds a zero byte"],
    ["\0name", TypeError, 'Cannot start at "@name": an abstract name has no owner'],
    [long, RangeError, `the path has ${long.length} bytes, a unix socket address holds 107`],
  ];
  for (const [path, make, words] of wrong) {
    await assertRejects(() => start(path as string, { stopOn: [] }), make, words);
  }
  assertEquals(directory.names(), []);
});

test("start() rejects an unknown option, or one of a wrong type, before it opens anything", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const wrong: [Record<string, unknown>, string][] = [
    [{ readyTimout: 3 }, 'there is no option "readyTimout"; there is readyTimeout, probation, '],
    [{ restartOn: "SIGHUP" }, '`restartOn` is a list of signals, such as ["SIGHUP"], not "SIGHUP"'],
    [{ mode: "0600" }, '`mode` is a number, such as 0o600, not "0600"'],
    [{ logger: console.log }, "`logger` is an object with `debug`, "],
    [{ command: ["deno", "run"] }, "`command` is an object with `program`, "],
    [{ signal: {} }, "`signal` is an AbortSignal, not object"],
    [{ stopOn: ["SIGTERM"], restartOn: ["SIGTERM"] }, "SIGTERM is in `stopOn` and in `restartOn`"],
    [{ probation: "1 s" }, "probation"],
  ];
  for (const [options, words] of wrong) {
    const error = await assertRejects(() => start(path, { stopOn: [], ...options }), Error);
    assert(error instanceof TypeError || error instanceof RangeError, String(error));
    assertStringIncludes(error.message, words);
  }
  assertEquals(directory.names(), []);
  const all = { service: undefined, mode: 0o600, restartAsMain: true, allow: () => true };
  await (await begin(path, { ...all, logger: {}, signal: AbortSignal.timeout(60_000) })).stop();
});

test("listen() and serve() reject options that are no object, and a handler in a wrong place", async () => {
  using directory = new Directory();
  await using app = await begin(directory.join("app.sock"));
  const handler = () => new Response();
  // deno-lint-ignore no-explicit-any -- a program without type checks
  const any = app as any;
  for (const options of [8000, "127.0.0.1", null, undefined]) {
    assertThrows(() => any.listen(options), TypeError, "its options are an object, such as");
  }
  assertThrows(() => any.serve(handler, { port: 0 }), TypeError, "and then the handler");
  assertThrows(() => any.serve(8000, handler), TypeError, "and then the handler");
  assertEquals(app.status().sockets, []);
});

test("the error of a second listen() at an address names this generation as its owner", async () => {
  using directory = new Directory();
  await using app = await begin(directory.join("app.sock"));
  const { port } = app.listen({ hostname: "127.0.0.1", port: 0 }).addr as Deno.NetAddr;
  const again = () => app.listen({ hostname: "127.0.0.1", port });
  assertThrows(again, Deno.errors.AddrInUse, "this generation listens there already");
});

test("start() names a missing directory, or a file in its place", async () => {
  using directory = new Directory();
  const missing = directory.join("missing");
  const error = await assertRejects(() => begin(`${missing}/app.sock`), Deno.errors.NotFound);
  assertEquals((error as { code?: string }).code, "ENOENT");
  assertStringIncludes(
    error.message,
    `user ${Deno.uid()} finds no directory "${missing}"; create it`,
  );
  const file = directory.join("file");
  await Deno.writeTextFile(file, "");
  await assertRejects(
    () => begin(`${file}/app.sock`),
    Deno.errors.NotADirectory,
    `"${file}" is no directory, but a file (regular); give another path`,
  );
  assertEquals(directory.names(), ["file"]);
});

test(
  "start() in a directory of another user names the user, the directory and the remedy",
  { ignore: !canBeOther },
  async () => {
    using directory = new Directory();
    Deno.chmodSync(directory.path, 0o755);
    const { name, message } = await outcome([directory.join("app.sock"), "start"], {
      through: asOther,
      env: { DENO_DIR: directory.join("cache") },
    });
    assertEquals(name, "PermissionDenied");
    assertStringIncludes(
      message!,
      "Permission denied (EACCES): remove that file if another user has left it. User 65534 has to be able " +
        "to write in ",
    );
    assertStringIncludes(message!, `its directory, "${directory.path}"`);
  },
);

test("start() without /proc names it", { ignore: !canUnmount }, async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  // Deno 2.9.6 panics where it has to parse a module without /proc: a start with /proc fills a cache of this test's own.
  using cache = new Directory();
  const env = { DENO_DIR: cache.path };
  await outcome([directory.join("missing/app.sock"), "start"], { env });
  const { name, message } = await outcome([path, "start"], { through: withoutProc, env });
  assertEquals(name, "NotFound");
  assertStringIncludes(message!, `Cannot start at "${path}": /proc is not mounted`);
  assertStringIncludes(message!, "mount -t proc proc /proc");
  assertEquals(directory.names(), []);
});

test("serve() without permission for the stand-in socket of an adoption names the flag", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const deno = ["run", "--no-prompt", "--no-config", "--allow-ffi"];
  const port = String(freePort());
  const net = `--allow-net=127.0.0.1:${port}`;
  const { name, message } = await outcome([path, "serve", port], { deno: [...deno, net] });
  assertEquals(name, "NotCapable");
  assertStringIncludes(message!, "Cannot adopt a descriptor: ");
  assertStringIncludes(
    message!,
    "--allow-net=127.0.0.1:0, beside the addresses of the service itself",
  );
  assertEquals(await outcome([path, "serve", port], { deno: [...deno, `${net},127.0.0.1:0`] }), {});
});

test("listenDatagram() without --unstable-net names the flag", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const deno = ["run", "-A", "--no-config"];
  const { name, message } = await outcome([path, "datagram"], { deno });
  assertEquals(name, "UnsupportedRuntimeError");
  assertStringIncludes(message!, "--unstable-net");
  assertEquals(await outcome([path, "datagram"], { deno: [...deno, "--unstable-net"] }), {});
});

test("listen(), serve() and listenDatagram() name the address that they cannot bind", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr;
  const serve = (hostname: string, port: number) =>
    app.serve({ hostname, port }, () => new Response());
  for (
    const listen of [serve, (hostname: string, port: number) => app.listen({ hostname, port })]
  ) {
    const error = assertThrows(() => listen("127.0.0.1", port), Deno.errors.AddrInUse);
    assertStringIncludes(
      error.message,
      `Cannot listen on 127.0.0.1:${port}: Address already in use`,
    );
    assertStringIncludes(error.message, "`ss -ltunp` names it");
    assertEquals((error as { code?: string }).code, "EADDRINUSE");
  }
  // An address for documentation (RFC 5737): no host has it.
  const { message } = assertThrows(() => serve("192.0.2.1", 0), Deno.errors.AddrNotAvailable);
  assertStringIncludes(message, "Cannot listen on 192.0.2.1:0: ");
  const udp = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  const place = { hostname: "127.0.0.1", port: (udp.addr as Deno.NetAddr).port };
  const error = assertThrows(() => app.listenDatagram(place), Deno.errors.AddrInUse);
  assertStringIncludes(error.message, `Cannot listen on 127.0.0.1:${place.port}: `);
  udp.close();
  await app.stop();
});

test("a second ready() and a restart() before ready() name the order of the calls", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  await assertRejects(
    () => app.restart(),
    HandoverError,
    "Cannot restart: this generation has not called ready() yet",
  );
  await app.ready();
  await assertRejects(
    () => app.ready(),
    TypeError,
    "Cannot be ready: ready() was called before, and this generation is serving",
  );
  await app.stop();
});

test("keep() throws at once for a value that cannot be handed over", async () => {
  using directory = new Directory();
  const app = await begin(directory.join("app.sock"));
  const large = new Uint8Array(2 ** 31);
  const wrong: [unknown, string][] = [
    [undefined, 'Cannot keep "x": it is of type undefined; bytes (a Uint8Array), a function '],
    [null, "it is of type null"],
    ["text", "it is of type string"],
    [new ArrayBuffer(1), "it is of type ArrayBuffer"],
    [new DataView(new ArrayBuffer(1)), "it is of type DataView"],
    [Promise.resolve(new Uint8Array(1)), "it is a promise; await it before"],
    [large, "it has 2147483648 bytes, and 2147483647 at most are handed over under one name"],
  ];
  for (const [value, words] of wrong) {
    assertThrows(() => app.keep("x", value as Uint8Array), TypeError, words);
  }
  const name = undefined as unknown as string;
  assertThrows(() => app.keep(name, new Uint8Array(1)), TypeError, "its name is of type undefined");
  assertEquals(app.status().kept, []);
  app.keep("x", large.subarray(1));
  await app.stop();
});

test("both generations name a kept function whose result cannot be handed over", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const app = await begin(path, { logger: log });
  await app.ready();
  const wrong: [() => unknown, string][] = [
    [() => new Uint8Array(2 ** 31), "it has 2147483648 bytes, and 2147483647 at most"],
    [() => Promise.resolve(), "it is a promise"],
    [() => "text", "it is of type string"],
    [() => ({}), "its function returns something else than a Uint8Array"],
  ];
  for (const [give, words] of wrong) {
    app.keep("x", give as () => Uint8Array);
    log.errors.length = 0;
    const error = await assertRejects(() => begin(path), HandoverError);
    const named = `"x" cannot be handed over: ${words}`;
    assertStringIncludes(error.message, named);
    assert(log.errors.some(([, error]) => String(error).includes(named)));
    assertEquals(app.status().state, "serving");
  }
  await app.stop();
});

/** The JSON that the program prints. */
async function outcome(
  args: string[],
  options: ConstructorParameters<typeof Child>[2],
): Promise<{ name?: string; message?: string }> {
  await using child = new Child("./print_start_error.ts", args, options);
  return JSON.parse(await child.line());
}

test("a generation logs the process of a successor that ends in the middle of the offer", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const app = await begin(path, { logger: log });
  // More than the buffers of a socket hold.
  app.keep("large", new Uint8Array(4 << 20));
  await app.ready();
  {
    using channel = new Channel(await connect(path));
    await channel.send({ type: "hello", version: protocolVersion, pid: Deno.pid });
    assertEquals((await channel.receive())?.type, "offer");
  }
  await until(() => log.errors.length > 0);
  assertEquals(
    String((log.errors[0][1] as Error).message),
    `Process ${Deno.pid}, the next generation, ended before it had read all of the offer`,
  );
  assertEquals(app.status().state, "serving");
  await app.stop();
});
