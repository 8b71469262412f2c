/**
 * Which socket a unix path belongs to: one of this service under another name, one of another service, or a
 * stale one.
 *
 * @module
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { pathStatus } from "../../ffi/file.ts";
import { listen, listenAndServe, listenerHandler, serve } from "../../mod.ts";
import { Child, programPath } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { begin, saying } from "../support/in_process.ts";
import { MessageLog } from "../support/kept_log.ts";
import { answerAt, askedAt, modeOf, servingAt } from "../support/unix_paths.ts";
import { until } from "../support/until.ts";

const { AddrInUse } = Deno.errors;

test("serve() at a path of another service throws, and leaves the socket file and its mode alone", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  const control = directory.join("app.sock");
  const log = new MessageLog();
  const old = await servingAt(control, { path: web, mode: 0o666 }, "old", { logger: log });
  Deno.removeSync(web);
  const other = listen(web, { mode: 0o600 });
  const { ino } = pathStatus(web)!;
  const next = await begin(control);
  assertThrows(
    () => next.serve({ path: web, mode: 0o666 }, saying("next")),
    AddrInUse,
    `Cannot listen on "${web}": another instance is serving there; stop it, or listen on another path`,
  );
  assertEquals([modeOf(web), pathStatus(web)!.ino], [0o600, ino]);
  await next.stop();
  await until(() => log.errors.some((line) => line.includes("trying again: Cannot listen on")));
  assertEquals([modeOf(web), pathStatus(web)!.ino], [0o600, ino]);
  // The generation binds its path again after the other service has closed.
  other.close();
  await until(async () => await answerAt(web) === "old");
  assertEquals(log.errors.filter((line) => line.includes("trying again")).length, 1);
  await old.stop();
});

test("a successor inherits a listener by another name of its path", async () => {
  using directory = new Directory();
  Deno.mkdirSync(directory.join("run"));
  Deno.symlinkSync(directory.join("run"), directory.join("link"));
  const control = directory.join("app.sock");
  const web = directory.join("run/web.sock");
  const names = [
    web,
    directory.join("link/web.sock"),
    relative(web),
    directory.join("./run/web.sock"),
  ];
  let app = await begin(control);
  app.serve({ path: web }, saying("0"));
  await app.ready();
  const { ino } = pathStatus(web)!;
  for (const [i, name] of names.entries()) {
    const old = app;
    app = await begin(control);
    app.serve({ path: name }, saying(String(i)));
    await app.ready();
    await old.finished;
    assertEquals(await askedAt(web), String(i));
    assertEquals(pathStatus(web)!.ino, ino, `${name} leads to another socket`);
  }
  await app.stop();
  assertEquals(pathStatus(web), undefined);
});

test("a generation inherits a listener of a plain server by its path, although the socket was bound at another", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  // `replace` binds the socket at a temporary path, and renames the file.
  const listener = listen(web, { replace: true });
  const { ino } = pathStatus(web)!;
  const predecessor = directory.join("plain.sock");
  const server = listenAndServe(predecessor, listenerHandler(listener));
  const app = await begin(directory.join("app.sock"), { inheritFrom: predecessor });
  app.serve({ path: web }, saying("here"));
  await app.ready();
  await server.shutdown();
  listener.close();
  assertEquals(pathStatus(web)!.ino, ino);
  assertEquals(await askedAt(web), "here");
  await app.stop();
});

test("serve() throws when another service has the path of a listener that was inherited from a plain server", async () => {
  using directory = new Directory();
  const web = directory.join("web.sock");
  using listener = listen(web);
  const predecessor = directory.join("plain.sock");
  await using _server = listenAndServe(predecessor, listenerHandler(listener));
  using _other = listen(web, { replace: true, mode: 0o600 });
  const app = await begin(directory.join("app.sock"), { inheritFrom: predecessor });
  assertThrows(() => app.serve({ path: web, mode: 0o666 }, saying("no")), AddrInUse, "another");
  assertEquals(modeOf(web), 0o600);
  await app.stop();
});

test("a server whose socket file was removed leaves the file of another listener at its path alone", async () => {
  using directory = new Directory();
  const path = directory.join("a.sock");
  const native = Deno.listen({ transport: "unix", path });
  Deno.removeSync(path);
  // The file is gone when the server takes the listener.
  const server = serve(native, () => {}, { logger: {} });
  using _other = listen(path);
  const { ino } = pathStatus(path)!;
  await server.shutdown();
  assertEquals(pathStatus(path)?.ino, ino);
});

test(
  "serve() and listenDatagram() name a stale socket file of another user, which may not be replaced",
  {
    ignore: Deno.uid() !== 0,
  },
  async () => {
    using directory = new Directory();
    const nobody = 65534;
    Deno.chmodSync(directory.path, 0o1777);
    const web = directory.join("web.sock");
    const stale = listen(web, { mode: 0o666 });
    stale.keepPath();
    stale.close();
    await using child = new Child("./serve_unix_path.ts", [
      directory.join("app.sock"),
      web,
      String(nobody),
    ]);
    assertEquals(await child.line(), "started: 1");
    for (
      const [command, attempt] of [["serve", "listen on"], ["receive", "receive datagrams at"]]
    ) {
      await child.tell(command);
      assertEquals(
        await child.line(),
        `failed: Cannot ${attempt} "${web}": a socket file is there whose process has ended, and which this user ` +
          "may not replace; remove it as its owner, or choose a directory of the service's own",
      );
    }
    await child.tell("stop");
    await until(() => directory.names().join() === "web.sock");
  },
);

const noOverlay = await withoutOverlay();
if (noOverlay) console.log(`path_owner_test.ts: overlayfs is not tested: ${noOverlay}`);

test("isBoundTo() holds on overlayfs, where stat(2) reports another device than the kernel", {
  ignore: noOverlay !== undefined,
}, async () => {
  using directory = new Directory();
  const { code, stdout, stderr } = await onOverlay(
    directory.path,
    `"$0" run -A --no-config --no-check "$1" "$DIRECTORY/merged"`,
    Deno.execPath(),
    programPath("print_bound_paths.ts"),
  );
  assertEquals([code, stderr], [0, ""]);
  const { known, isOther } = JSON.parse(stdout);
  assert(isOther, "the devices are the same: nothing was tested");
  assertEquals(known, [[true, false], [false, true], [false, false]]);
});

/** The path relative to the working directory. */
function relative(path: string): string {
  return `${Deno.cwd().split("/").slice(1).map(() => "..").join("/")}${path}`;
}

/** Runs a script with an overlayfs at "$DIRECTORY/merged", whose layers are on two file systems. */
async function onOverlay(directory: string, script: string, ...args: string[]) {
  const mount =
    `set -e; mount -t tmpfs none "$DIRECTORY"; cd "$DIRECTORY"; mkdir lower upper work merged
mount -t tmpfs none lower
mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,xino=off merged`;
  const output = await new Deno.Command("unshare", {
    args: ["-m", "sh", "-c", `${mount}\n${script}`, ...args],
    env: { DIRECTORY: directory, NO_COLOR: "1" },
  }).output();
  const [stdout, stderr] = [output.stdout, output.stderr].map((bytes) =>
    new TextDecoder().decode(bytes)
  );
  return { code: output.code, stdout, stderr };
}

/** The reason why no overlayfs can be mounted; undefined when it can. */
async function withoutOverlay(): Promise<string | undefined> {
  using directory = new Directory();
  try {
    const { code, stderr } = await onOverlay(directory.path, ":");
    return code === 0 ? undefined : stderr.trim();
  } catch (error) {
    return (error as Error).message;
  }
}
