/**
 * Who may have descriptors, and from whom they are taken: with a second user of this system.
 *
 * @module
 */

import { assert, assertEquals, assertInstanceOf, assertMatch, assertRejects } from "@std/assert";
import {
  connect,
  Fd,
  fdHandler,
  type Handler,
  listenAndServe,
  type PeerCheck,
  PeerNotAllowedError,
  receive,
  receiveAllFrom,
  receiveFrom,
  type ReceiveOptions,
  send,
  UnexpectedEofError,
} from "../../mod.ts";
import { begin } from "../support/in_process.ts";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { KeptLog } from "../support/kept_log.ts";
import { connectedPair, record, sendRaw } from "../support/raw.ts";
import { test } from "../support/guard.ts";

const root = 0;
const nobody = 65534;

const ignore = !await canBeAnother();
if (ignore) {
  console.log("peer_test.ts: skipped, for root and python3 are needed to be a second user");
}

test("a server refuses another user before its handler runs, and that client sees it", {
  ignore,
}, async () => {
  using directory = new Shared();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  let handled = 0;
  const handler: Handler = async (_conn, response) => {
    handled++;
    await response.write(0);
  };
  await using _server = listenAndServe(path, handler, { mode: 0o666, logger: log });
  // A single byte is the end inside a record, where nothing at all would look like success.
  assertEquals(await askAs(nobody, path), { bytes: 1, descriptors: 0 });
  assertEquals(handled, 0);
  assertInstanceOf(log.errors[0][1], PeerNotAllowedError);
  assertMatch(
    String(log.errors[0][1]),
    /Refused a client: `allow` refuses process \d+ of user 65534$/,
  );
  // Its own user, and root, are served.
  assertEquals(await askAs(root, path), { bytes: 4, descriptors: 1 });
  assertEquals(await receive(path, () => {}), 1);
  assertEquals([handled, log.errors.length], [2, 1]);
});

test("a server of the user nobody serves nobody and root", { ignore }, async () => {
  using directory = new Shared();
  const path = directory.join("app.sock");
  await using child = new Child("./serve_as.ts", [String(nobody), path]);
  assertEquals(await child.line(), "listening");
  assertEquals(await askAs(nobody, path), { bytes: 4, descriptors: 1 });
  assertEquals(await askAs(root, path), { bytes: 4, descriptors: 1 });
  assertEquals(await askAs(1, path), { bytes: 1, descriptors: 0 });
});

test("`allow` lets in other users, or refuses users", { ignore }, async () => {
  using directory = new Shared();
  const path = directory.join("app.sock");
  const asked: number[] = [];
  await using _server = listenAndServe(path, fdHandler(0), {
    mode: 0o666,
    logger: {},
    allow: ({ uid }) => asked.push(uid) > 0 && uid === nobody,
  });
  assertEquals(await askAs(nobody, path), { bytes: 4, descriptors: 1 });
  assertEquals(await askAs(root, path), { bytes: 1, descriptors: 0 });
  assertEquals(asked, [nobody, root]);
});

test("an `allow` that throws refuses", { ignore }, async () => {
  using directory = new Shared();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const allow = () => {
    throw new Error("cannot tell");
  };
  await using _server = listenAndServe(path, fdHandler(0), { mode: 0o666, logger: log, allow });
  assertEquals(await askAs(root, path), { bytes: 1, descriptors: 0 });
  assertMatch(String(log.errors[0][1]), /cannot tell/);
  await assertRejects(() => receive(path, () => {}, { allow }), Error, "cannot tell");
});

test("the control socket itself keeps another user out, unless its mode says otherwise", {
  ignore,
}, async () => {
  using directory = new Shared();
  const path = directory.join("app.sock");
  await using _server = listenAndServe(path, fdHandler(0));
  await using stranger = asAnother("client", path);
  assertMatch((await stranger.ended()).stderr, /PermissionError/);
});

test("a client takes nothing from another user's process when it says so, and gives it nothing", {
  ignore,
}, async () => {
  using directory = new Shared();
  const path = directory.join("app.sock");
  await using stranger = asAnother("server", path);
  assertEquals(await stranger.line(), "listening");
  Deno.chmodSync(path, 0o666);
  const allow = ({ uid }: { uid: number }) => uid === root;
  const wanted =
    `Cannot connect to "${path}": \`allow\` refuses process ${stranger.pid} of user ${nobody}`;
  let count = 0;
  await assertRejects(
    () => receive(path, () => void count++, { allow }),
    PeerNotAllowedError,
    wanted,
  );
  assertEquals(await stranger.line(), "was answered 0 bytes");
  await assertRejects(() => send(path, 0, null, { allow }), PeerNotAllowedError, wanted);
  assertEquals(await stranger.line(), "was answered 0 bytes");
  assertEquals(count, 0);
});

test("start() takes nothing from another user's process, at its path or its predecessor's", {
  ignore,
}, async () => {
  using directory = new Shared();
  const theirs = directory.join("theirs.sock");
  await using stranger = asAnother("server", theirs);
  assertEquals(await stranger.line(), "listening");
  Deno.chmodSync(theirs, 0o666);
  const wanted =
    `Cannot connect to "${theirs}": \`allow\` refuses process ${stranger.pid} of user ${nobody}`;
  const ours = directory.join("app.sock");
  const starting = {
    "at its path": () => begin(theirs),
    "at its predecessor's": () => begin(ours, { inheritFrom: theirs }),
    "where `allow` says so": () => begin(ours, { inheritFrom: theirs, allow: () => false }),
  };
  for (const [where, start] of Object.entries(starting)) {
    await assertRejects(start, PeerNotAllowedError, wanted, where);
    assertEquals(await stranger.line(), "was answered 0 bytes", where);
  }
  // Nothing is left listening, and `allow` may name that user.
  const app = await begin(ours, { inheritFrom: theirs, allow: ({ uid }) => uid === nobody });
  using given = app.take("") as Fd;
  assertInstanceOf(given, Fd);
  await app.ready();
  assertEquals(await stranger.line(), "was answered 1 bytes");
  await app.stop();
});

const noNamespace = await whyNoNamespace();
if (noNamespace) console.log(`peer_test.ts: no test of user namespaces: ${noNamespace}`);

test("the overflow user number is not taken for one user", {
  ignore: noNamespace !== undefined,
}, async () => {
  using directory = new Directory();
  for (const [mapped, served] of [[["--map-current-user"], true], [[], false]] as const) {
    const path = directory.join(`${served}.sock`);
    await using child = new Child("./give.ts", [path, "sockets", "1"], {
      through: ["unshare", "--user", ...mapped],
    });
    await child.line();
    // In there, that is what both of us are.
    const receiving = receive(path, () => {});
    if (served) assertEquals(await receiving, 1);
    else await assertRejects(() => receiving, UnexpectedEofError);
  }
});

test("an `allow` that answers with a promise refuses, on either side", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  const allow = (() => Promise.resolve(true)) as unknown as PeerCheck;
  // An unhandled rejection would end this process.
  const rejecting = (() => Promise.reject(new Error("on purpose"))) as unknown as PeerCheck;
  {
    await using _server = listenAndServe(path, fdHandler(0), { logger: {}, allow: rejecting });
    await assertRejects(() => receive(path, () => {}), UnexpectedEofError);
  }
  {
    await using _server = listenAndServe(path, fdHandler(0), { logger: log, allow });
    await assertRejects(() => receive(path, () => {}), UnexpectedEofError);
    assertInstanceOf(log.errors[0][1], PeerNotAllowedError);
  }
  await using _server = listenAndServe(path, fdHandler(0), { logger: {} });
  await assertRejects(() => receive(path, () => {}, { allow }), PeerNotAllowedError);
  await assertRejects(() => connect(path, { allow }), PeerNotAllowedError);
});

test("`allow` is called with the credentials of the process at the other end", async () => {
  const [a, b] = connectedPair();
  using conn = a;
  using sender = b;
  const uses = [
    (options: ReceiveOptions) => receiveFrom(conn, () => {}, options),
    (options: ReceiveOptions) => receiveAllFrom(conn, () => {}, options),
    (options: ReceiveOptions) => receiveAllFrom(conn, options).next(),
  ];
  sendRaw(sender, record(), [0]);
  const promising = (() => Promise.resolve(true)) as unknown as PeerCheck;
  const asked: number[] = [];
  for (const use of uses) {
    await assertRejects(
      () => use({ allow: ({ pid }) => asked.push(pid) < 0 }),
      PeerNotAllowedError,
      `Cannot receive: \`allow\` refuses process ${Deno.pid} of user`,
    );
    await assertRejects(() => use({ allow: promising }), PeerNotAllowedError);
  }
  assertEquals(asked, [Deno.pid, Deno.pid, Deno.pid]);
  // Nothing was taken from it.
  sender.close();
  assertEquals(await receiveAllFrom(conn, () => {}, { allow: () => true }), 1);
});

test("strangers that come again and again fill no log", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const log = new KeptLog();
  await using _server = listenAndServe(path, fdHandler(0), { logger: log, allow: () => false });
  const began = performance.now();
  for (let i = 0; i < 100; i++) {
    await assertRejects(() => receive(path, () => {}), UnexpectedEofError);
  }
  const seconds = (performance.now() - began) / 1000;
  assert(log.errors.length >= 1 && log.errors.length <= 1 + seconds, `${log.errors.length} lines`);
});

/** A directory that every user may enter and write to. */
class Shared extends Directory {
  constructor() {
    super();
    Deno.chmodSync(this.path, 0o777);
  }
}

function asAnother(what: "client" | "server", path: string, uid = nobody): Child {
  return new Child("./stranger.py", [what, path, String(uid)], { command: "python3" });
}

async function askAs(uid: number, path: string): Promise<{ bytes: number; descriptors: number }> {
  await using child = asAnother("client", path, uid);
  return JSON.parse(await child.line());
}

/** Why there are no user namespaces here; undefined when there are. */
async function whyNoNamespace(): Promise<string | undefined> {
  try {
    const args = ["--user", "--map-current-user", Deno.execPath(), "--version"];
    const { success, stderr } = await new Deno.Command("unshare", { args }).output();
    return success ? undefined : new TextDecoder().decode(stderr).trim();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "unshare is not installed";
    throw error;
  }
}

async function canBeAnother(): Promise<boolean> {
  if (Deno.uid() !== root) return false;
  try {
    return (await new Deno.Command("python3", { args: ["--version"] }).output()).success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
