/**
 * The arguments of `cli.ts hold`.
 *
 * @module
 */

import type { ListenAddress } from "../listen_address.ts";

/** The text of `cli.ts hold --help`. */
export const holdUsage =
  `Starts a service, and starts it again when it dies: for a machine without systemd, and for containers.

Usage: deno run -A cli.ts hold PATH [options] -- COMMAND...

PATH is the control socket of the service: the path with which it calls start(). COMMAND starts it. The
process of hold stays while generations of the service replace each other. It keeps the listeners: nobody
is refused while the service starts again.

  --listen ADDRESS        listens there, and passes the listener to COMMAND; several times for several. ADDRESS
                          is a port, HOST:PORT, [::1]:PORT, or a path with a slash (mode 0600). NAME=ADDRESS names
                          the listener (default: "hold")
  --stop-timeout SECONDS  how long a stop may take before the service is killed (default: 100)
  -h, --help              prints this text

COMMAND gets the environment that systemd gives a service: LISTEN_FDS with LISTEN_PID and LISTEN_FDNAMES, for
the listeners of --listen, those that hold itself was passed in that way, and those that the service has put
into the store (FDSTORE=1); NOTIFY_SOCKET (PATH.notify), PIDFILE (PATH.pid), SYSTEMD_EXEC_PID, INVOCATION_ID;
and GRACEFUL_CONTROL (PATH), for a program that knows nothing of it: COMMAND is deno run -A cli.ts run main.ts.
start() uses all of them but the last. Another program needs LISTEN_FDS alone: listen({ fd: 3 }) in Node, for example.
COMMAND is started by /bin/sh, which drops variables whose names have other characters than letters, digits
and "_".

The main process is the one that PIDFILE names, or MAINPID=; at first the started one. When it dies, and PIDFILE
names no other one, COMMAND is started again: at once, then 100 ms after the last start, 200 ms, and so on to
10 s; at once again after it has run for 3 s. Instead hold ends
  - with 0, when the main process has ended with 0, and the previous generations have ended too;
  - with the code of COMMAND, when the first start fails before READY=1, or, if it has sent nothing to
    NOTIFY_SOCKET, within a second: its configuration is wrong then.

Signals:
  SIGHUP           restarts: the generation at PATH starts the next one, as \`cli.ts restart PATH\`. A program without
                   generations gets SIGTERM, and is started again when it has ended: connections wait meanwhile
  SIGTERM, SIGINT  are sent to each process of the service that is a child of hold, the draining generations
                   too. hold waits until all have ended (EXTEND_TIMEOUT_USEC= extends the time), and ends with the
                   code of the main process: 128 and the number of the signal, if one has ended it. A second one kills
  SIGUSR1, SIGUSR2, SIGQUIT, SIGWINCH are sent to the main process

hold waits for orphans, as process 1 of a container and otherwise: there are no zombies. When hold itself is killed
with SIGKILL, the service goes on without it: start the same hold again, and the COMMAND that it starts takes over from
the running generation. A program without generations has to be ended before. (An address of --listen is still
the service's then: hold listens there again when COMMAND is started the next time. All processes of a container end
with process 1.)

Exits with 0 on success, 1 on failure, 2 for a wrong argument, and else with the code of the service.`;

/** A listener that hold binds. */
export interface HeldAddress {
  /** Its name in LISTEN_FDNAMES. */
  name: string;
  address: ListenAddress;
}

/** The arguments. */
export interface HoldOptions {
  path: string;
  listen: HeldAddress[];
  /** Milliseconds. */
  stopTimeout: number;
  /** The program and its arguments. */
  command: [string, ...string[]];
}

/** A wrong argument. */
export class HoldUsageError extends Error {}

/** The name of a listener without one: a name that a program is not likely to use. */
const defaultName = "hold";

/** Reads the arguments behind `hold`. @throws {HoldUsageError} */
export function parseHold(args: string[]): HoldOptions {
  const end = args.indexOf("--");
  const [program, ...rest] = end < 0 ? [] : args.slice(end + 1);
  const words: string[] = [];
  const listen: HeldAddress[] = [];
  let stopTimeout = 100_000;
  const own = end < 0 ? args : args.slice(0, end);
  for (let i = 0; i < own.length; i++) {
    const [option, joined] = own[i].startsWith("-") ? own[i].split(/=(.*)/s) : [own[i]];
    const value = () => joined ?? own[++i];
    if (option === "--listen") listen.push(toAddress(value()));
    else if (option === "--stop-timeout") stopTimeout = toMilliseconds(value());
    else if (option.startsWith("-")) throw new HoldUsageError(`There is no option ${option}`);
    else words.push(option);
  }
  const [path, extra] = words;
  if (!path) throw new HoldUsageError("The path of the control socket is missing");
  if (extra !== undefined) {
    throw new HoldUsageError(`The command stands behind "--": hold ${path} -- ${extra} ...`);
  }
  if (!program) {
    throw new HoldUsageError(`The command is missing: hold ${path} -- deno run -A main.ts`);
  }
  return { path, listen, stopTimeout, command: [program, ...rest] };
}

function toMilliseconds(value: string | undefined): number {
  const seconds = Number(value || NaN);
  if (seconds >= 0) return 1000 * seconds;
  throw new HoldUsageError(
    `--stop-timeout takes seconds, not ${value === undefined ? "nothing" : `"${value}"`}`,
  );
}

/** Reads "8000", "127.0.0.1:8000", "[::1]:8000", "/run/app/http.sock", each also as "name=ADDRESS". */
function toAddress(text: string | undefined): HeldAddress {
  const [, name = defaultName, address] = /^(?:([\w.-]{1,255})=)?(.*)$/s.exec(text ?? "")!;
  if (address.includes("/")) return { name, address: { path: address } };
  const [, ipv6, host, digits] = /^(?:(?:\[([\da-fA-F:.%\w]+)\]|([^:[\]]+)):)?(\d{1,5})$/
    .exec(address) ?? [];
  const port = Number(digits);
  if (!(port <= 65535)) {
    throw new HoldUsageError(
      `--listen takes a port, HOST:PORT, [::1]:PORT or a path with a slash, not ${
        text ? `"${text}"` : "nothing"
      }`,
    );
  }
  return { name, address: { hostname: ipv6 ?? host ?? "0.0.0.0", port } };
}
