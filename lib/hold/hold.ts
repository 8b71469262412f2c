/**
 * `cli.ts hold`: a parent process that starts a service, keeps its descriptors, and starts it again.
 *
 * @module
 */

import { adoptOrphans } from "../../ffi/child_process.ts";
import { pathStatus, unlink } from "../../ffi/file.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import { noDescriptors } from "../../ffi/system.ts";
import { locked } from "../generation/path_lock.ts";
import { printError } from "../logger.ts";
import { listenFds } from "../systemd/listen_fds.ts";
import { HeldCommand } from "./command.ts";
import { Descriptors } from "./descriptors.ts";
import { NotifySocket, type TakeNotification } from "./notify_socket.ts";
import { type HoldOptions, holdUsage, HoldUsageError, parseHold } from "./options.ts";
import { Supervisor } from "./supervisor.ts";
import { runtime } from "../runtime.ts";

/** Milliseconds between two looks for ended children: SIGCHLD reports them before. */
const reapInterval = 5000;

/** Milliseconds for which another hold may bind its socket at the same path. */
const lockTimeout = 5000;

/** Signals that the main process gets. */
const forwarded: Deno.Signal[] = ["SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGWINCH"];

/** Runs `cli.ts hold` with the arguments behind that; resolves to its exit code. */
export async function hold(args: string[]): Promise<number> {
  const end = args.indexOf("--");
  const own = end < 0 ? args : args.slice(0, end);
  if (own.includes("--help") || own.includes("-h")) {
    console.log(holdUsage);
    return 0;
  }
  try {
    return await supervise(parseHold(args));
  } catch (error) {
    const { message } = error as Error;
    const isUsage = error instanceof HoldUsageError;
    printError(isUsage ? `${message}\nSee hold --help` : message);
    return isUsage ? 2 : 1;
  }
}

async function supervise(
  { path: given, listen, stopTimeout, command: words }: HoldOptions,
): Promise<number> {
  const unsupported = noDescriptors();
  if (unsupported) throw unsupported;
  const path = given.startsWith("/") ? given : `${Deno.cwd()}/${given}`;
  checkDirectory(path);
  const [notifySocket, pidFile] = [`${path}.notify`, `${path}.pid`];
  const command = new HeldCommand(words, { path, notifySocket, pidFile });
  command.check();
  adoptOrphans();
  using descriptors = new Descriptors(listen, listenFds({ logger: { warn: log } }), log);
  using socket = await bindNotifySocket(path, notifySocket, (notification, sent) => {
    supervisor.notified(notification, sent);
  });
  const supervisor = new Supervisor({
    path,
    pidFile,
    stopTimeout,
    descriptors,
    start: () => command.start(descriptors.forStart(path)),
    takeNotifications: () => socket.takeAll(),
    log,
  });
  listenToSignals(supervisor);
  // It may name a process of before the last start of the machine or container.
  unlink(pidFile);
  const timer = setInterval(safely(() => supervisor.reap()), reapInterval);
  try {
    log(`holding ${command}`);
    supervisor.start();
    void socket.run();
    return await supervisor.finished;
  } finally {
    clearInterval(timer);
    unlink(pidFile);
  }
}

function checkDirectory(path: string): void {
  const directory = path.slice(0, path.lastIndexOf("/")) || "/";
  if (pathStatus(directory)?.kind === "directory") return;
  throw new Deno.errors.NotFound(
    `Cannot hold the service at ${formatPath(path)}: there is no directory ${
      formatPath(directory)
    }; create it`,
  );
}

/** @throws {Deno.errors.AddrInUse} When another hold runs there. */
async function bindNotifySocket(
  path: string,
  address: string,
  take: TakeNotification,
): Promise<NotifySocket> {
  const bind = () => new NotifySocket(address, take, (why) => log(`a message was dropped: ${why}`));
  try {
    return await locked(address, bind, { timeout: lockTimeout, logger: {} });
  } catch (error) {
    if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    if (pathStatus(address)?.kind !== "socket") {
      throw new Deno.errors.AddrInUse(
        `Cannot hold the service at ${formatPath(path)}: ${formatPath(address)} is no socket; ` +
          "move it away",
      );
    }
    throw new Deno.errors.AddrInUse(
      `Cannot hold the service at ${
        formatPath(path)
      }: another \`cli.ts hold\` does, whose socket is ` +
        `${formatPath(address)}; restart the service by \`cli.ts restart\`, or stop that hold`,
    );
  }
}

function listenToSignals(supervisor: Supervisor): void {
  const on = (signal: Deno.Signal, step: () => void) => {
    runtime.addSignalListener(signal, safely(step));
  };
  on("SIGCHLD", () => supervisor.reap());
  on("SIGTERM", () => supervisor.stop("SIGTERM"));
  on("SIGINT", () => supervisor.stop("SIGINT"));
  on("SIGHUP", () => void supervisor.reload());
  for (const signal of forwarded) on(signal, () => supervisor.forward(signal));
}

/** Logs an error, such as that of a lack of memory, in place of ending: as process 1 the service would end too. */
function safely(step: () => void): () => void {
  return () => {
    try {
      step();
    } catch (error) {
      log(`${(error as Error).message}; going on`);
    }
  };
}

function log(text: string): void {
  printError(`hold: ${text}`);
}
