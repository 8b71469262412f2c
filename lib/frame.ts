/**
 * What generations of a service say to each other: frames of a little-endian u32 length and that many
 * bytes of JSON. The descriptors that a frame announces follow it, as records of `wire.ts`.
 *
 *     next -> running   hello      asks for everything, with the token if it was started by it
 *     running -> next   offer      what there is; then its state and its descriptors
 *                       refused    not now, or not at all
 *     next -> running   ready      accepts: from here on the other one may leave
 *                       failed     gives up
 *     running -> next   draining   has stopped accepting
 *     next -> running   healthy    has lived on for a while: the other one lets go
 *                       stop       is stopped itself: the other one is not to wait for idle clients
 *     running -> next   moved      one connection, which follows
 *                       rollback   has changed its mind: the next one is to leave
 *
 * The end of the stream is the end of the other process. Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import { HandoverError } from "./errors.ts";

/** The version of this protocol: another one is refused, with this one named. */
export const protocolVersion = 1;

/** The longest frame, in bytes. */
export const maxFrameBytes: number = 16 << 20;

/** What is handed over, beside descriptors that nobody named: see `inheritance.ts`. */
export interface OfferedItem {
  /** What it becomes. */
  kind: "control" | "listener" | "datagram" | "file" | "kept" | "state" | "stdout" | "stderr";
  /** By what the next generation finds it: what it listens on, its path, or its name. */
  key: string;
  /** Where a unix listener is reached, which the socket itself may not know. */
  path?: string;
  /** A process of another kind that has the same socket, and may change its flags (`donor.ts`). */
  donor?: number;
  /** Bytes of state; only `kind: "state"` has them, and it has no descriptor. */
  bytes?: number;
}

/** A listener or datagram socket of a generation, in a report. */
export interface ReportedSocket {
  /** What it is. */
  kind: "listener" | "datagram";
  /** Where it is bound. */
  address: string;
  /** How many are connected. */
  connections: number;
}

/** What a generation says of itself. */
export interface Status {
  /** Its number. */
  generation: number;
  /** Its process. */
  pid: number;
  /** When it began, in milliseconds since 1970. */
  since: number;
  /** What it is doing: one that is handing over still accepts. */
  state: "starting" | "serving" | "handing over" | "leaving" | "stopped";
  /** What it listens on. */
  sockets: ReportedSocket[];
  /** Names of kept descriptors, state and files. */
  kept: string[];
  /** The generation before it, while that has not left. */
  predecessor?: { pid: number; generation: number; connections: number };
}

/** One frame. */
export type Frame =
  | { type: "hello"; version: number; pid: number; token?: string }
  | {
    type: "offer";
    version: number;
    generation: number;
    pid: number;
    items: OfferedItem[];
  }
  | { type: "refused"; reason: string; code: "busy" | "version" | "leaving" | "peer" }
  | { type: "ready"; probation: number }
  | { type: "failed"; message: string }
  | { type: "draining" }
  | { type: "healthy" }
  | { type: "moved"; name: string }
  | { type: "progress"; connections: number }
  | { type: "rollback"; reason: string }
  | { type: "status" }
  | { type: "report"; status: Status }
  | { type: "restart" }
  | { type: "stop" }
  | { type: "done"; pid: number; generation: number; namespace?: string };

type Shape = Record<string, (value: unknown) => boolean>;

const isNumber = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
const isDuration = (value: unknown) => Number.isFinite(value) && (value as number) >= 0;
const isText = (value: unknown) => typeof value === "string";
const kinds = ["control", "listener", "datagram", "file", "kept", "state", "stdout", "stderr"];

function isItem(value: unknown): boolean {
  const { kind, key, path, donor, bytes } = (value ?? {}) as Record<string, unknown>;
  return kinds.includes(kind as string) && isText(key) && (path === undefined || isText(path)) &&
    (donor === undefined || isNumber(donor)) &&
    (bytes === undefined ? kind !== "state" : kind === "state" && isNumber(bytes));
}

const shapes: Record<Frame["type"], Shape> = {
  hello: {
    version: isNumber,
    pid: isNumber,
    token: (value) => value === undefined || isText(value),
  },
  offer: {
    version: isNumber,
    generation: isNumber,
    pid: isNumber,
    items: (value) => Array.isArray(value) && value.every(isItem),
  },
  refused: { reason: isText, code: isText },
  ready: { probation: isDuration },
  failed: { message: isText },
  draining: {},
  healthy: {},
  moved: { name: isText },
  progress: { connections: isNumber },
  rollback: { reason: isText },
  status: {},
  report: { status: (value) => typeof value === "object" && value !== null },
  restart: {},
  stop: {},
  done: {
    pid: isNumber,
    generation: isNumber,
    namespace: (value) => value === undefined || isText(value),
  },
};

/** The error for a frame that has no place in the conversation. */
export function unexpected({ type }: Frame): HandoverError {
  return new HandoverError(`A frame of type "${type}" was not expected`, "ERR_HANDOVER_PROTOCOL");
}

/** A frame with its length in front. */
export function encodeFrame(frame: Frame): Uint8Array<ArrayBuffer> {
  const body = new TextEncoder().encode(JSON.stringify(frame));
  const whole = new Uint8Array(4 + body.length);
  new DataView(whole.buffer).setUint32(0, checkFrameLength(body.length), true);
  whole.set(body, 4);
  return whole;
}

/**
 * The length that the first four bytes announce.
 *
 * @throws {HandoverError} When no frame is so long.
 */
export function frameLength(head: Uint8Array): number {
  return checkFrameLength(new DataView(head.buffer, head.byteOffset, 4).getUint32(0, true));
}

function checkFrameLength(length: number): number {
  if (length > 0 && length <= maxFrameBytes) return length;
  throw new HandoverError(
    `A frame of ${length} bytes is none: they have 1 to ${maxFrameBytes}`,
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
  } catch (cause) {
    throw new HandoverError("A frame is not JSON", "ERR_HANDOVER_PROTOCOL", { cause });
  }
  const { type } = (value ?? {}) as { type?: unknown };
  const shape = typeof type === "string" && Object.hasOwn(shapes, type)
    ? shapes[type as Frame["type"]]
    : undefined;
  if (!shape) {
    throw new HandoverError(
      `A frame is of an unknown type: ${JSON.stringify(type)}`,
      "ERR_HANDOVER_PROTOCOL",
    );
  }
  for (const [field, fits] of Object.entries(shape)) {
    if (fits((value as Record<string, unknown>)[field])) continue;
    throw new HandoverError(
      `A frame of type "${type}" has no right "${field}"`,
      "ERR_HANDOVER_PROTOCOL",
    );
  }
  return value as Frame;
}
