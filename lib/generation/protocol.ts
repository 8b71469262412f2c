/**
 * The handover protocol: what two generations of a service send each other over the control socket, and what the
 * command line asks there. A frame is a little-endian u32 length and that many bytes of JSON; `frame.ts` encodes,
 * decodes and checks it. The descriptors that a frame announces follow it, as records of `wire/record.ts`.
 *
 *     successor -> predecessor   hello      asks for the offer; with the token, if restart() started the process
 *     predecessor -> successor   offer      lists what is handed over (`items`: the rest of a long list); state and
 *                                           descriptors follow
 *                                refused    no handover now, or never: `code` says why
 *     successor -> predecessor   ready      accepts: its probation begins
 *                                failed     the reason for which its process is about to end
 *     predecessor -> successor   withdrawn  has stopped accepting, and stands by
 *     successor -> predecessor   healthy    its probation is over; with the predecessor's addresses, if it listens
 *                                           at none of them
 *                                stop       is being stopped itself: the predecessor is not to wait for idle clients
 *     predecessor -> successor   moved      one connection, which follows
 *                                progress   the number of connections that are left
 *                                rollback   accepts again: the successor is to end
 *                                restart    was asked for another restart: the successor is to do it
 *
 * Each moment of a handover has one name, in the frames, in the log and in `status()`:
 *
 *     frame        predecessor   successor
 *     hello        offering      starting
 *     ready        standby       probation
 *     withdrawn    standby       probation
 *     healthy      draining      serving
 *     end          stopped       serving
 *
 * The end of the stream is the end of the process at the other end. Pure: no Deno namespace, no ffi.
 *
 * @module
 */

/**
 * The version of this protocol. Before 1.0 of this module a generation speaks with generations of the same version
 * alone; from 1.0 on version N speaks with N - 1 as well.
 */
export const protocolVersion = 2;

/** The longest frame, in bytes. */
export const maxFrameBytes: number = 16 << 20;

/** The longest name of anything that is handed over, in UTF-16 units: JSON makes up to 6 bytes of each. */
export const maxNameLength: number = 1 << 20;

/** The most bytes of one value of state: read(2) and write(2) of Linux transfer no more in one call. */
export const maxStateBytes: number = 2 ** 31 - 1;

/** The longest name of a service, in UTF-16 units. */
export const maxServiceName: number = 255;

/** One descriptor, or one value of state, of an offer. */
export interface OfferedItem {
  /** What it becomes. */
  kind: "control" | "listener" | "datagram" | "file" | "kept" | "state" | "stdout" | "stderr";
  /** The key under which the successor looks for it: the address that was asked for, the path, or the name. */
  key: string;
  /** The `name` option of a listener or datagram socket, which is looked for before the key. */
  name?: string;
  /** The path of a unix socket: the kernel knows the one of bind(2) alone, not a link or a new name of it. */
  path?: string;
  /** The file that a unix socket is bound to: another file at the path belongs to another socket. */
  file?: OfferedFile;
  /**
   * Set for a socket of the service manager's own (socket activation, systemd.socket(5)): its path stays, and it is not
   * put into the manager's store.
   */
  activated?: true;
  /** The process, not of this library, that sent the socket and may still clear its O_NONBLOCK. */
  senderPid?: number;
  /** The number of bytes of a value of state, which has no descriptor; absent for all other kinds. */
  bytes?: number;
}

/** The file of a unix socket: JSON numbers do not hold the device and inode of stat(2). */
export interface OfferedFile {
  /** A path without symbolic links. */
  path: string;
  /** The device, in decimal digits. */
  dev: string;
  /** The inode, in decimal digits. */
  ino: string;
}

/** Makes of a file what an offer has of it. */
export function offeredFile(
  { path, dev, ino }: { path: string; dev: bigint; ino: bigint },
): OfferedFile {
  return { path, dev: String(dev), ino: String(ino) };
}

/** Makes a file of what an offer has of it. */
export function fileOf(
  { path, dev, ino }: OfferedFile,
): { path: string; dev: bigint; ino: bigint } {
  return { path, dev: BigInt(dev), ino: BigInt(ino) };
}

/** A listener or datagram socket of a generation, as `status()` gives it. */
export interface SocketStatus {
  /** Whether it accepts connections or receives datagrams. */
  kind: "listener" | "datagram";
  /** The address or path that it is bound to. */
  address: string;
  /** The number of its established connections; 0 for a datagram socket. */
  connections: number;
  /** The `name` that the program gave it, if it did. */
  name?: string;
  /** Set when the socket belongs to another network namespace: it is reached at its address from there alone. */
  elsewhere?: true;
}

/** What `status()` gives. */
export interface GenerationStatus {
  /** The generation's number: 1 for the first, and one more with each handover. */
  generation: number;
  /** The number of its process. */
  pid: number;
  /** The name of the service, if `start()` was given one. */
  service?: string;
  /** The time of `start()`, in milliseconds since 1970. */
  since: number;
  /**
   * - `starting`: it has not called `ready()`.
   * - `probation`: it accepts; its predecessor stands by, and accepts again if this one ends.
   * - `serving`: it accepts.
   * - `offering`: it accepts; a successor has the offer, and is not ready.
   * - `standby`: a successor accepts, in its probation; this one has stopped accepting, in a way that can be undone.
   * - `draining`: it waits for its clients, replaced or stopped.
   * - `stopped`: it has ended.
   */
  state: "starting" | "probation" | "serving" | "offering" | "standby" | "draining" | "stopped";
  /** Its listeners and datagram sockets. */
  sockets: SocketStatus[];
  /** The names of kept values and descriptors, and the paths of files. */
  kept: string[];
  /** The number of further names, for which the frame of a report had no room. */
  moreKept?: number;
  /** The previous generation, until that has ended. */
  predecessor?: { pid: number; generation: number; connections: number };
}

/** A frame between two generations. */
export type HandoverFrame =
  | { type: "hello"; version: number; pid: number; token?: string; service?: string }
  | {
    type: "offer";
    version: number;
    generation: number;
    pid: number;
    items: OfferedItem[];
    more?: number;
    /** The unit of a service manager that the generation speaks for: its INVOCATION_ID (systemd.exec(5)). */
    invocation?: string;
  }
  | { type: "items"; items: OfferedItem[] }
  | { type: "refused"; reason: string; code: "busy" | "version" | "draining" | "peer" | "service" }
  | { type: "ready"; probation: number }
  | { type: "failed"; message: string }
  | { type: "withdrawn" }
  | { type: "healthy"; dropped?: string[] }
  | { type: "moved"; name: string }
  | { type: "progress"; connections: number }
  | { type: "rollback"; reason: string }
  | { type: "restart" }
  | { type: "stop" };

/** A frame between the command line and a generation: `report`, `done` and `failed` are the answers. */
export type ControlFrame =
  | { type: "status" }
  | { type: "report"; status: GenerationStatus }
  | { type: "restart" }
  | { type: "stop" }
  | { type: "done"; pid: number; generation: number; namespace?: string }
  | { type: "failed"; message: string };

/** Any frame. */
export type Frame = HandoverFrame | ControlFrame;
