/**
 * Checks of the fields of a frame: each is of the kind and within the range that the protocol gives it, for the
 * process at the other end may send anything.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import { indented, quoted } from "../../ffi/quote.ts";
import {
  type Frame,
  type GenerationStatus,
  maxServiceName,
  maxStateBytes,
  type OfferedFile,
  type OfferedItem,
  type SocketStatus,
} from "./protocol.ts";

/** Gives the value of a field, or throws an {@linkcode InvalidField}. */
type Check<T> = (value: unknown, where: string) => T;

/** A check for each field: a field without one is a type error. */
type Checks<T> = { [Field in keyof Required<T>]: Check<T[Field]> };

/** A field that is not of the kind, or not within the range, that the protocol gives it. */
export class InvalidField extends Error {
  override name = "InvalidField";

  constructor(value: unknown, where: string, expected: string) {
    super(`${where} is ${described(value)}, where ${expected} belongs`);
  }
}

/** Describes a value without its text, the length of which is up to the other process. */
function described(value: unknown): string {
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
    throw new InvalidField(value, where, `${what} (${least} to ${most})`);
  };
}

/** The range of pid_t, an int, in kill(2) and getsockopt(2). */
const mostPid = 2 ** 31 - 1;

const version = integer("a version", 1, 2 ** 32 - 1);
const pid = integer("the number of a process", 1, mostPid);
/** 0 is a process of another PID namespace, which has no number in this one (socket(7), SO_PEERCRED). */
const senderPid = integer("the number of a process", 0, mostPid);
const count = integer("a number", 0, Number.MAX_SAFE_INTEGER);
const generation = integer("the number of a generation", 1, 2 ** 32);
/** The number of a generation that makes an offer: its successor has the next one. */
const offeringGeneration = integer("the number of a generation", 1, 2 ** 32 - 1);
const bytes = integer("a number of bytes", 0, maxStateBytes);
/** The range of a Date. */
const since = integer("a time in milliseconds", 0, 8.64e15);

const duration: Check<number> = (value, where) => {
  if (Number.isFinite(value) && (value as number) >= 0) return value as number;
  throw new InvalidField(value, where, "a number of milliseconds");
};

const text: Check<string> = (value, where) => {
  if (typeof value === "string") return value;
  throw new InvalidField(value, where, "a text");
};

const service: Check<string> = (value, where) => {
  const { length } = text(value, where);
  if (length > 0 && length <= maxServiceName) return value as string;
  throw new InvalidField(
    value,
    where,
    `the name of a service (1 to ${maxServiceName} characters)`,
  );
};

/** Text for people: control characters are escaped. */
const printable: Check<string> = (value, where) => indented(text(value, where));

/** The path of a unix socket fits into `sun_path`; an abstract name begins with a zero byte (unix(7)). */
const socketPath: Check<string> = (value, where) => {
  const { length } = new TextEncoder().encode(text(value, where));
  const isAbstract = (value as string).startsWith("\0");
  const fits = length > 0 && length < 108 && !(value as string).includes("\0");
  if (fits || isAbstract && length <= 108) return value as string;
  throw new InvalidField(value, where, "the path of a unix socket (1 to 107 bytes)");
};

/** The path of a file (limits.h, PATH_MAX). */
const filePath: Check<string> = (value, where) => {
  const { length } = new TextEncoder().encode(text(value, where));
  if (length > 0 && length < 4096 && !(value as string).includes("\0")) return value as string;
  throw new InvalidField(value, where, "the path of a file (1 to 4095 bytes)");
};

/** dev_t and ino_t of stat(2). */
const digits: Check<string> = (value, where) => {
  const fits = /^(0|[1-9]\d{0,19})$/.test(text(value, where)) &&
    BigInt(value as string) < 1n << 64n;
  if (fits) return value as string;
  throw new InvalidField(value, where, "an integer of 64 bits, in decimal digits,");
};

function oneOf<Word extends string>(allowed: Record<Word, true>): Check<Word> {
  return (value, where) => {
    if (typeof value === "string" && Object.hasOwn(allowed, value)) return value as Word;
    throw new InvalidField(value, where, `one of ${Object.keys(allowed).map(quoted).join(", ")}`);
  };
}

const always: Check<true> = (value, where) => {
  if (value === true) return value;
  throw new InvalidField(value, where, "true");
};

function optional<T>(check: Check<T>): Check<T | undefined> {
  return (value, where) => value === undefined ? undefined : check(value, where);
}

function list<T>(check: Check<T>): Check<T[]> {
  return (value, where) => {
    if (!Array.isArray(value)) throw new InvalidField(value, where, "an array");
    return value.map((each, i) => check(each, `${where}[${i}]`));
  };
}

/** Gives the fields that have a check, and drops all others. */
function object<T>(checks: Checks<T>): Check<T> {
  return (value, where) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new InvalidField(value, where, "an object");
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

const itemFields = object<OfferedItem>({
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
  key: text,
  name: optional(text),
  path: optional(socketPath),
  activated: optional(always),
  file: optional(object<OfferedFile>({ path: filePath, dev: digits, ino: digits })),
  senderPid: optional(senderPid),
  bytes: optional(bytes),
});

const item: Check<OfferedItem> = (value, where) => {
  const checked = itemFields(value, where);
  if ((checked.kind === "state") === (checked.bytes !== undefined)) return checked;
  throw new InvalidField(
    checked.bytes,
    `${where}.bytes`,
    "a number for state, and for nothing else,",
  );
};

const anyItems = list(item);

/** The kinds of which an offer has one item at most, and the frames behind it have none. */
const singleKinds = { control: true, stdout: true, stderr: true };

const furtherItems: Check<OfferedItem[]> = (value, where) => {
  const checked = anyItems(value, where);
  const first = checked.findIndex(({ kind }) => Object.hasOwn(singleKinds, kind));
  if (first < 0) return checked;
  throw new InvalidField(
    checked[first].kind,
    `${where}[${first}].kind`,
    "a kind of which there may be many",
  );
};

const items: Check<OfferedItem[]> = (value, where) => {
  const checked = anyItems(value, where);
  for (const kind of Object.keys(singleKinds)) {
    const { length } = checked.filter((item) => item.kind === kind);
    if (length > 1) throw new InvalidField(value, where, `one item of kind "${kind}" at most`);
    if (length < 1 && kind === "control") {
      throw new InvalidField(value, where, `one item of kind "control"`);
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
    starting: true,
    probation: true,
    serving: true,
    offering: true,
    standby: true,
    draining: true,
    stopped: true,
  }),
  sockets: list(object<SocketStatus>({
    kind: oneOf({ listener: true, datagram: true }),
    address: text,
    connections: count,
    name: optional(text),
    elsewhere: optional(always),
  })),
  kept: list(text),
  moreKept: optional(count),
  predecessor: optional(object<Required<GenerationStatus>["predecessor"]>({
    pid,
    generation,
    connections: count,
  })),
});

type Fields<Type extends Frame["type"]> = Omit<Extract<Frame, { type: Type }>, "type">;

/** The check of each type of frame. */
export const frameChecks: { [Type in Frame["type"]]: Check<Fields<Type>> } = {
  hello: object<Fields<"hello">>({
    version,
    pid,
    token: optional(text),
    service: optional(service),
  }),
  offer: object<Fields<"offer">>({
    version,
    generation: offeringGeneration,
    pid,
    items,
    more: optional(count),
    invocation: optional(text),
  }),
  items: object<Fields<"items">>({ items: furtherItems }),
  refused: object<Fields<"refused">>({
    reason: printable,
    code: oneOf({ busy: true, version: true, draining: true, peer: true, service: true }),
  }),
  ready: object<Fields<"ready">>({ probation: duration }),
  failed: object<Fields<"failed">>({ message: printable }),
  withdrawn: object<Fields<"withdrawn">>({}),
  healthy: object<Fields<"healthy">>({ dropped: optional(list(printable)) }),
  moved: object<Fields<"moved">>({ name: text }),
  progress: object<Fields<"progress">>({ connections: count }),
  rollback: object<Fields<"rollback">>({ reason: printable }),
  status: object<Fields<"status">>({}),
  report: object<Fields<"report">>({ status }),
  restart: object<Fields<"restart">>({}),
  stop: object<Fields<"stop">>({}),
  done: object<Fields<"done">>({ pid, generation, namespace: optional(text) }),
};
