/**
 * Messages to a service manager (sd_notify(3)): lines of `NAME=value`.
 *
 * @module
 */

/** What hold reads of a message. */
export interface Notification {
  /** READY=1: the sender accepts. */
  ready: boolean;
  /** STATUS=: what the sender does, in words. */
  status?: string;
  /** MAINPID=: the main process. */
  mainPid?: number;
  /** EXTEND_TIMEOUT_USEC=, in milliseconds from now on. */
  extendBy?: number;
  /** FDSTORE=1: the descriptors of the message are to be kept. */
  store: boolean;
  /** FDSTOREREMOVE=1: the descriptors of that name are to be closed. */
  remove: boolean;
  /** FDNAME=. */
  name?: string;
  /** Whether a kept descriptor is closed when it was hung up on: not with FDPOLL=0. */
  poll: boolean;
}

/**
 * Reads a message. Lines that are not known are ignored, as systemd does, and so is STOPPING=1: what follows depends on how
 * the process ends.
 */
export function parseNotification(text: string): Notification {
  const values = new Map<string, string>();
  for (const line of text.split("\n")) {
    const end = line.indexOf("=");
    if (end > 0) values.set(line.slice(0, end), line.slice(end + 1));
  }
  const is = (name: string) => values.get(name) === "1";
  const microseconds = wholeNumber(values.get("EXTEND_TIMEOUT_USEC"));
  return {
    ready: is("READY"),
    status: values.get("STATUS"),
    mainPid: wholeNumber(values.get("MAINPID")),
    extendBy: microseconds === undefined ? undefined : microseconds / 1000,
    store: is("FDSTORE"),
    remove: is("FDSTOREREMOVE"),
    name: values.get("FDNAME"),
    poll: values.get("FDPOLL") !== "0",
  };
}

/** Reads digits; undefined for anything else. */
export function wholeNumber(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}
