/**
 * Tells the service manager about this process: the protocol of sd_notify(3), which systemd and `cli.ts hold` read.
 *
 * @module
 */

import { closeRaw, type Fd, rawOf } from "../../ffi/fd.ts";
import { maxDescriptors, OutgoingMessage, wouldBlock } from "../../ffi/message.ts";
import { isReady } from "../../ffi/poll.ts";
import { currentVariable } from "../../ffi/proc.ts";
import { formatPath } from "../../ffi/sockaddr.ts";
import { connectUnixDatagram } from "../../ffi/socket.ts";
import { noDescriptors } from "../../ffi/system.ts";
import { guarded, type Logger } from "../logger.ts";

/** The variable with the address of the manager's socket. */
export const notifyVariable = "NOTIFY_SOCKET";

/** The most bytes of a message: systemd 252 reads 4,096 of it, and drops a longer one without an error. */
const maxBytes = 4000;

/** Milliseconds for which a message waits for room in the queue of the manager. */
export const patience = 100;

/** Options of {@linkcode notify}. */
export interface NotifyOptions {
  /** Gets a warning for a message that cannot be sent. @default {the console} */
  logger?: Logger;
}

/**
 * Sends a state to the service manager (sd_notify(3)): lines such as `READY=1`, `STATUS=Loading the index`,
 * `EXTEND_TIMEOUT_USEC=10000000`, `WATCHDOG=1`, or `FDSTORE=1\nFDNAME=cache` with descriptors. A generation of
 * `start()` does so itself at each of its steps: this is for what a program adds, and for programs without generations.
 *
 * It never throws, and waits for a tenth of a second at most, where the manager does not read. The manager does not
 * answer: true says that the message is in its queue. systemd drops it if the unit has `NotifyAccess=none`, or `main`
 * and this is another process.
 *
 * ```ts
 * import { notify } from "@graceful/deno";
 *
 * notify("STATUS=Loading the index"); // shown by systemctl status
 * ```
 *
 * @param state Lines of `NAME=value`, 4,000 bytes of UTF-8 at most.
 * @param descriptors Descriptors that go along, 253 at most; the manager gets duplicates.
 * @returns Whether it was sent: false where no manager is, which is no error, and where a warning was logged.
 */
export function notify(
  state: string,
  descriptors: Iterable<Fd | number> = [],
  { logger }: NotifyOptions = {},
): boolean {
  try {
    return sendState(state, descriptors, patience);
  } catch (error) {
    const { message } = error as Error;
    guarded(logger).warn?.(`Cannot tell the service manager ${JSON.stringify(state)}: ${message}`);
    return false;
  }
}

/**
 * The same as {@linkcode notify}, which waits for `milliseconds` at most.
 *
 * @throws {Error} When it cannot be sent.
 */
export function sendState(
  state: string,
  descriptors: Iterable<Fd | number>,
  milliseconds: number,
): boolean {
  if (noDescriptors()) return false;
  const address = currentVariable(notifyVariable);
  if (!address) return false;
  send(address, state, [...descriptors].map(rawOf), milliseconds);
  return true;
}

/** @throws {Error} When it cannot be sent. */
function send(address: string, state: string, descriptors: number[], milliseconds: number): void {
  const bytes = new TextEncoder().encode(state);
  if (bytes.length === 0 || bytes.length > maxBytes) {
    throw new RangeError(`it has ${bytes.length} bytes, where 1 to ${maxBytes} belong`);
  }
  if (descriptors.length > maxDescriptors) {
    throw new RangeError(
      `it has ${descriptors.length} descriptors, where ${maxDescriptors} at most belong`,
    );
  }
  // Others, such as "vsock:2:1234" for the manager of a virtual machine, are no unix sockets.
  if (!/^[/@]/.test(address)) {
    throw new TypeError(`${notifyVariable} is ${JSON.stringify(address)}`);
  }
  const path = address.replace(/^@/, "\0");
  const raw = connectUnixDatagram(path, `Cannot connect to ${formatPath(path)}`);
  try {
    const message = new OutgoingMessage(bytes.length);
    message.data.set(bytes);
    message.descriptors.set(descriptors);
    const attempt = () => message.send(raw, 0, bytes.length, descriptors.length);
    let sent = attempt();
    if (sent === wouldBlock && milliseconds > 0 && isReady(raw, "writable", milliseconds)) {
      sent = attempt();
    }
    if (sent < 0) throw new Error(`it does not read (${formatPath(path)})`);
  } finally {
    closeRaw(raw);
  }
}
