/**
 * What generations of a service say to each other: frames of a little-endian u32 length and that many
 * bytes of JSON. The descriptors that a frame announces follow it, as records of `wire.ts`.
 *
 *     next -> running   hello      asks for everything, with the token if it was started by it
 *     running -> next   offer      what there is, in frames `items` if it is much; then its state and its
 *                                  descriptors
 *                       refused    not now, or not at all
 *     next -> running   ready      accepts: from here on the other one may leave
 *                       failed     gives up
 *     running -> next   draining   has stopped accepting
 *     next -> running   healthy    has lived on for a while, and where it listens at none of the addresses of
 *                                  the other one, which those are: the other one lets go
 *                       stop       is stopped itself: the other one is not to wait for idle clients
 *     running -> next   moved      one connection, which follows
 *                       rollback   has changed its mind: the next one is to leave
 *                       restart    was asked to restart once more: the next one is to do so
 *
 * The end of the stream is the end of the other process. Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import { escaped, indented, quoted } from "../../ffi/quote.ts";
import { HandoverError } from "../errors.ts";

/** The version of this protocol: another one is refused, with this one named. */
export const protocolVersion = 1;

/** The longest frame, in bytes. */
export const maxFrameBytes: number = 16 << 20;

/** How many bytes of items, or of names, go into one frame; what is behind that goes into another one. */
const fullFrameBytes = 1 << 20;

/** The longest name of anything that is handed over, in UTF-16 units: of each, JSON makes up to 6 bytes. */
export const maxNameLength: number = 1 << 20;

/** What is handed over, beside descriptors that nobody named: see `inheritance.ts`. */
export interface OfferedItem {
  /** What it becomes. */
  kind: "control" | "listener" | "datagram" | "file" | "kept" | "state" | "stdout" | "stderr";
  /** By what the next generation finds it: what it listens on, its path, or its name. */
  key: string;
  /** What the program calls a listener or datagram socket, if it has named it: found by that first. */
  name?: string;
  /** Where a unix listener is reached, which the socket itself may not know. */
  path?: string;
  /** Which file a unix socket is bound to: what else may be at the path is not its own. */
  file?: OfferedFile;
  /** A process of another kind that has the same socket, and may change its flags (`donor.ts`). */
  senderPid?: number;
  /** Bytes of state; only `kind: "state"` has them, and it has no descriptor. */
  bytes?: number;
}

/** A file: JSON has no number as long as those of stat(2). */
export interface OfferedFile {
  /** A name without symbolic links. */
  path: string;
  /** Its device, in decimal digits. */
  dev: string;
  /** Its inode, in decimal digits. */
  ino: string;
}

/** A file as it is offered. */
export function offeredFile(
  { path, dev, ino }: { path: string; dev: bigint; ino: bigint },
): OfferedFile {
  return { path, dev: String(dev), ino: String(ino) };
}

/** What was offered as that. */
export function fileOf(
  { path, dev, ino }: OfferedFile,
): { path: string; dev: bigint; ino: bigint } {
  return { path, dev: BigInt(dev), ino: BigInt(ino) };
}

/** A listener or datagram socket of a generation, in a report. */
export interface SocketStatus {
  /** What it is. */
  kind: "listener" | "datagram";
  /** Where it is bound. */
  address: string;
  /** How many are connected. */
  connections: number;
  /** Its name, if the program has given it one. */
  name?: string;
  /** Set when it was inherited from another network namespace: only there it is reached at its address. */
  elsewhere?: true;
}

/** What a generation says of itself. */
export interface GenerationStatus {
  /** Its number. */
  generation: number;
  /** Its process. */
  pid: number;
  /** The name of the service, if it was started with one. */
  service?: string;
  /** When it began, in milliseconds since 1970. */
  since: number;
  /** What it is doing: one that is handing over still accepts. */
  state: "starting" | "serving" | "handing over" | "leaving" | "stopped";
  /** What it listens on. */
  sockets: SocketStatus[];
  /** Names of kept descriptors, state and files. */
  kept: string[];
  /** How many more are kept than `kept` names: a report that another process asks for has room for so many. */
  moreKept?: number;
  /** The generation before it, while that has not left. */
  predecessor?: { pid: number; generation: number; connections: number };
}

/** One frame. */
export type Frame =
  | { type: "hello"; version: number; pid: number; token?: string; service?: string }
  | {
    type: "offer";
    version: number;
    generation: number;
    pid: number;
    items: OfferedItem[];
    more?: number;
  }
  | { type: "items"; items: OfferedItem[] }
  | { type: "refused"; reason: string; code: "busy" | "version" | "leaving" | "peer" | "service" }
  | { type: "ready"; probation: number }
  | { type: "failed"; message: string }
  | { type: "draining" }
  | { type: "healthy"; dropped?: string[] }
  | { type: "moved"; name: string }
  | { type: "progress"; connections: number }
  | { type: "rollback"; reason: string }
  | { type: "status" }
  | { type: "report"; status: GenerationStatus }
  | { type: "restart" }
  | { type: "stop" }
  | { type: "done"; pid: number; generation: number; namespace?: string };

/** What a field comes to when it is right; throws a {@linkcode WrongField} when it is not. */
type Check<T> = (value: unknown, where: string) => T;

/** A check for each field: one without, which another process could fill as it likes, is a type error. */
type Checks<T> = { [Field in keyof Required<T>]: Check<T[Field]> };

/** A field that is not what it has to be. */
class WrongField extends Error {
  override name = "WrongField";

  constructor(value: unknown, where: string, wanted: string) {
    super(`${where} is ${nameOf(value)}, where ${wanted} belongs`);
  }
}

/** A value in a few words, and without its text: that is as long as the other process likes. */
function nameOf(value: unknown): string {
  if (value === undefined) return "missing";
  if (typeof value === "number" || value === null) return String(value);
  if (typeof value === "string") return `a text of ${value.length} characters`;
  if (Array.isArray(value)) return `an array of ${value.length}`;
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}

function integer(what: string, least: number, most: number): Check<number> {
  return (value, where) => {
    if (Number.isSafeInteger(value) && least <= (value as number) && (value as number) <= most) {
      return value as number;
    }
    throw new WrongField(value, where, `${what} (${least} to ${most})`);
  };
}

/** What kill(2) and getsockopt(2) take and give: pid_t is an int. */
const mostPid = 2 ** 31 - 1;

const version = integer("a version", 1, 2 ** 32 - 1);
const pid = integer("the number of a process", 1, mostPid);
/** 0 stands for a process of another PID namespace, which has no number in this one (socket(7), SO_PEERCRED). */
const senderPid = integer("the number of a process", 0, mostPid);
const count = integer("a number", 0, Number.MAX_SAFE_INTEGER);
const generation = integer("the number of a generation", 1, 2 ** 32);
/** One that another one can follow. */
const offering = integer("the number of a generation", 1, 2 ** 32 - 1);
/** The most bytes that one value of state may have: one read or write of Linux is no longer (read(2)). */
export const maxStateBytes: number = 2 ** 31 - 1;

const bytes = integer("a number of bytes", 0, maxStateBytes);
/** As long as a Date goes. */
const since = integer("a time in milliseconds", 0, 8.64e15);

const duration: Check<number> = (value, where) => {
  if (Number.isFinite(value) && (value as number) >= 0) return value as number;
  throw new WrongField(value, where, "a number of milliseconds");
};

/** A name: it is compared with others, and quoted where it is printed. */
const name: Check<string> = (value, where) => {
  if (typeof value === "string") return value;
  throw new WrongField(value, where, "a text");
};

/** The most characters that the name of a service may have. */
export const maxServiceName: number = 255;

const service: Check<string> = (value, where) => {
  const { length } = name(value, where);
  if (length > 0 && length <= maxServiceName) return value as string;
  throw new WrongField(value, where, `the name of a service (1 to ${maxServiceName} characters)`);
};

/** Text for people, fit to be printed. */
const words: Check<string> = (value, where) => indented(name(value, where));

/** Where a unix socket may be bound: as long as `sun_path` is, or an abstract name (unix(7)). */
const path: Check<string> = (value, where) => {
  const { length } = new TextEncoder().encode(name(value, where));
  const isAbstract = (value as string).startsWith("\0");
  const fits = length > 0 && length < 108 && !(value as string).includes("\0");
  if (fits || isAbstract && length <= 108) return value as string;
  throw new WrongField(value, where, "the path of a unix socket (1 to 107 bytes)");
};

/** A name of a file (limits.h, PATH_MAX). */
const filePath: Check<string> = (value, where) => {
  const { length } = new TextEncoder().encode(name(value, where));
  if (length > 0 && length < 4096 && !(value as string).includes("\0")) return value as string;
  throw new WrongField(value, where, "the path of a file (1 to 4095 bytes)");
};

/** dev_t and ino_t of stat(2). */
const digits: Check<string> = (value, where) => {
  const fits = /^(0|[1-9]\d{0,19})$/.test(name(value, where)) &&
    BigInt(value as string) < 1n << 64n;
  if (fits) return value as string;
  throw new WrongField(value, where, "an integer of 64 bits, in decimal digits,");
};

function oneOf<Word extends string>(allowed: Record<Word, true>): Check<Word> {
  return (value, where) => {
    if (typeof value === "string" && Object.hasOwn(allowed, value)) return value as Word;
    throw new WrongField(value, where, `one of ${Object.keys(allowed).map(quoted).join(", ")}`);
  };
}

const always: Check<true> = (value, where) => {
  if (value === true) return value;
  throw new WrongField(value, where, "true");
};

function optional<T>(check: Check<T>): Check<T | undefined> {
  return (value, where) => value === undefined ? undefined : check(value, where);
}

function list<T>(check: Check<T>): Check<T[]> {
  return (value, where) => {
    if (!Array.isArray(value)) throw new WrongField(value, where, "an array");
    return value.map((each, i) => check(each, `${where}[${i}]`));
  };
}

/** Gives the fields that are known, and no others. */
function object<T>(checks: Checks<T>): Check<T> {
  return (value, where) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new WrongField(value, where, "an object");
    }
    const checked: Partial<T> = {};
    for (const field of Object.keys(checks) as (keyof T & string)[]) {
      const given = Object.hasOwn(value, field) ? value[field as keyof object] : undefined;
      const fits = checks[field](given, where ? `${where}.${field}` : field);
      if (fits !== undefined) checked[field] = fits;
    }
    return checked as T;
  };
}

const anyItem = object<OfferedItem>({
  kind: oneOf({
    control: true,
    listener: true,
    datagram: true,
    file: true,
    kept: true,
    state: true,
    stdout: true,
    stderr: true,
  }),
  key: name,
  name: optional(name),
  path: optional(path),
  file: optional(object<OfferedFile>({ path: filePath, dev: digits, ino: digits })),
  senderPid: optional(senderPid),
  bytes: optional(bytes),
});

const item: Check<OfferedItem> = (value, where) => {
  const checked = anyItem(value, where);
  if ((checked.kind === "state") === (checked.bytes !== undefined)) return checked;
  throw new WrongField(
    checked.bytes,
    `${where}.bytes`,
    "a number for state, and for nothing else,",
  );
};

const allItems = list(item);

/** There is one of these at most, in the offer itself. */
const single = { control: true, stdout: true, stderr: true };

const moreItems: Check<OfferedItem[]> = (value, where) => {
  const checked = allItems(value, where);
  const first = checked.findIndex(({ kind }) => Object.hasOwn(single, kind));
  if (first < 0) return checked;
  throw new WrongField(
    checked[first].kind,
    `${where}[${first}].kind`,
    "a kind of which there may be many",
  );
};

const items: Check<OfferedItem[]> = (value, where) => {
  const checked = allItems(value, where);
  for (const kind of Object.keys(single)) {
    const { length } = checked.filter((item) => item.kind === kind);
    if (length > 1) throw new WrongField(value, where, `one item of kind "${kind}" at most`);
    if (length < 1 && kind === "control") {
      throw new WrongField(value, where, `one item of kind "control"`);
    }
  }
  return checked;
};

const status = object<GenerationStatus>({
  generation,
  pid,
  service: optional(service),
  since,
  state: oneOf({
    "starting": true,
    "serving": true,
    "handing over": true,
    "leaving": true,
    "stopped": true,
  }),
  sockets: list(object<SocketStatus>({
    kind: oneOf({ listener: true, datagram: true }),
    address: name,
    connections: count,
    name: optional(name),
    elsewhere: optional(always),
  })),
  kept: list(name),
  moreKept: optional(count),
  predecessor: optional(object<Required<GenerationStatus>["predecessor"]>({
    pid,
    generation,
    connections: count,
  })),
});

type Fields<Type extends Frame["type"]> = Omit<Extract<Frame, { type: Type }>, "type">;

const frames: { [Type in Frame["type"]]: Check<Fields<Type>> } = {
  hello: object<Fields<"hello">>({
    version,
    pid,
    token: optional(name),
    service: optional(service),
  }),
  offer: object<Fields<"offer">>({
    version,
    generation: offering,
    pid,
    items,
    more: optional(count),
  }),
  items: object<Fields<"items">>({ items: moreItems }),
  refused: object<Fields<"refused">>({
    reason: words,
    code: oneOf({ busy: true, version: true, leaving: true, peer: true, service: true }),
  }),
  ready: object<Fields<"ready">>({ probation: duration }),
  failed: object<Fields<"failed">>({ message: words }),
  draining: object<Fields<"draining">>({}),
  healthy: object<Fields<"healthy">>({ dropped: optional(list(words)) }),
  moved: object<Fields<"moved">>({ name }),
  progress: object<Fields<"progress">>({ connections: count }),
  rollback: object<Fields<"rollback">>({ reason: words }),
  status: object<Fields<"status">>({}),
  report: object<Fields<"report">>({ status }),
  restart: object<Fields<"restart">>({}),
  stop: object<Fields<"stop">>({}),
  done: object<Fields<"done">>({ pid, generation, namespace: optional(name) }),
};

/** The error for a frame that has no place in the conversation. */
export function unexpected({ type }: Frame): HandoverError {
  return new HandoverError(`A frame of type "${type}" was not expected`, "ERR_HANDOVER_PROTOCOL");
}

/**
 * An offer in as many frames as it takes: the first of them says how many items the others have.
 *
 * @param items In the order in which their descriptors follow; the control socket is among the first.
 */
export function offerFrames(
  offer: { generation: number; pid: number },
  items: OfferedItem[],
): Frame[] {
  const [first, ...rest] = inParts(items);
  const more = items.length - first.length;
  return [
    {
      type: "offer",
      version: protocolVersion,
      ...offer,
      items: first,
      ...more > 0 && { more },
    },
    ...rest.map((items): Frame => ({ type: "items", items })),
  ];
}

/** A report that fits into a frame: with as many names as there is room for, and the number of the others. */
export function reportFrame(status: GenerationStatus): Frame {
  const [kept = []] = inParts(status.kept);
  const moreKept = status.kept.length - kept.length;
  return { type: "report", status: { ...status, kept, ...moreKept > 0 && { moreKept } } };
}

/** What fits into one frame each, of values that are not longer than a name may be. */
function inParts<T>(values: T[]): T[][] {
  const parts: T[][] = [];
  let left = 0;
  for (const value of values) {
    // UTF-8 has 3 bytes for a UTF-16 unit at most.
    const bytes = 3 * JSON.stringify(value).length;
    left -= bytes;
    if (left < 0) {
      parts.push([]);
      left = fullFrameBytes - bytes;
    }
    parts.at(-1)!.push(value);
  }
  return parts;
}

/**
 * A frame with its length in front.
 *
 * @throws {HandoverError} When the other process would refuse it.
 */
export function encodeFrame(frame: Frame): Uint8Array<ArrayBuffer> {
  checked(frame);
  const body = new TextEncoder().encode(JSON.stringify(frame));
  if (body.length > maxFrameBytes) {
    const what = frame.type === "offer"
      ? `; it names all ${frame.items.length} things that are handed over: keep fewer, or under shorter names`
      : "";
    throw new HandoverError(
      `A frame of type "${frame.type}" has ${body.length} bytes, and ${maxFrameBytes} at most${what}`,
      "ERR_HANDOVER_PROTOCOL",
    );
  }
  const whole = new Uint8Array(4 + body.length);
  new DataView(whole.buffer).setUint32(0, body.length, true);
  whole.set(body, 4);
  return whole;
}

/**
 * The length that the first four bytes announce.
 *
 * @throws {HandoverError} When no frame is so long.
 */
export function frameLength(head: Uint8Array): number {
  const length = new DataView(head.buffer, head.byteOffset, 4).getUint32(0, true);
  if (length > 0 && length <= maxFrameBytes) return length;
  throw new HandoverError(
    `Invalid frame length ${length}: must be 1 to ${maxFrameBytes}`,
    "ERR_HANDOVER_PROTOCOL",
  );
}

/**
 * Reads what is behind the length.
 *
 * @throws {HandoverError} When it is no frame of this protocol.
 */
export function decodeFrame(body: Uint8Array): Frame {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch (error) {
    // V8 quotes what it cannot parse, as it is: as the cause, it would be printed so.
    const why = escaped((error as Error).message);
    throw new HandoverError(`A frame is not JSON: ${why}`, "ERR_HANDOVER_PROTOCOL");
  }
  return checked(value);
}

/** The frame, with the fields that are known, and no others. */
function checked(value: unknown): Frame {
  const { type } = (value ?? {}) as { type?: unknown };
  if (typeof type !== "string" || !Object.hasOwn(frames, type)) {
    const what = typeof type === "string" ? quoted(type.slice(0, 50)) : typeof type;
    throw new HandoverError(`A frame is of an unknown type: ${what}`, "ERR_HANDOVER_PROTOCOL");
  }
  try {
    return { type, ...frames[type as Frame["type"]](value, "") } as Frame;
  } catch (error) {
    if (!(error instanceof WrongField)) throw error;
    throw new HandoverError(
      `A frame of type "${type}" is against the protocol: ${error.message}`,
      "ERR_HANDOVER_PROTOCOL",
    );
  }
}
