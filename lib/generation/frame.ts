/**
 * Encodes, decodes and checks the frames of `protocol.ts`.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import { escaped, quoted } from "../../ffi/quote.ts";
import { HandoverError } from "../errors.ts";
import { frameChecks, InvalidField } from "./frame_fields.ts";
import {
  type Frame,
  type GenerationStatus,
  maxFrameBytes,
  type OfferedItem,
  protocolVersion,
} from "./protocol.ts";

/**
 * The bytes of items, or of names, that one frame gets before another one is begun. One item may be longer than
 * that, and never longer than a frame: see `maxNameLength`.
 */
const fullFrameBytes = 1 << 20;

/** The error for a frame that the conversation has no place for. */
export function unexpected({ type }: Frame): HandoverError {
  return new HandoverError(`A frame of type "${type}" was not expected`, "ERR_HANDOVER_PROTOCOL");
}

/**
 * Makes the frames of an offer: the first one tells how many items the others have.
 *
 * @param items In the order in which their descriptors follow; the control socket is among the first.
 */
export function offerFrames(
  offer: { generation: number; pid: number; invocation?: string },
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

/** Makes a report of one frame: `moreKept` counts the names for which that has no room. */
export function reportFrame(status: GenerationStatus): Frame {
  const [kept = []] = inParts(status.kept);
  const moreKept = status.kept.length - kept.length;
  return { type: "report", status: { ...status, kept, ...moreKept > 0 && { moreKept } } };
}

/** Splits values, each of which fits into a frame, into the parts that fit into one frame each. */
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
 * Encodes a frame, with its length in front.
 *
 * @throws {HandoverError} When the receiver would refuse it: it is too long, or a field is out of its range.
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
 * Reads the length of a frame from its first four bytes.
 *
 * @throws {HandoverError} When it is 0, or more than a frame may have.
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
 * Decodes the bytes behind the length.
 *
 * @throws {HandoverError} When they are not a frame of this protocol.
 */
export function decodeFrame(body: Uint8Array): Frame {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch (error) {
    // Escaped, and not the `cause`: V8 quotes the input in its message, with all control characters.
    const why = escaped((error as Error).message);
    throw new HandoverError(`A frame is not JSON: ${why}`, "ERR_HANDOVER_PROTOCOL");
  }
  return checked(value);
}

/** Gives the frame with the fields that the protocol has, and drops all others. */
function checked(value: unknown): Frame {
  const { type } = (value ?? {}) as { type?: unknown };
  if (typeof type !== "string" || !Object.hasOwn(frameChecks, type)) {
    const what = typeof type === "string" ? quoted(type.slice(0, 50)) : typeof type;
    throw new HandoverError(`A frame is of an unknown type: ${what}`, "ERR_HANDOVER_PROTOCOL");
  }
  try {
    return { type, ...frameChecks[type as Frame["type"]](value, "") } as Frame;
  } catch (error) {
    if (!(error instanceof InvalidField)) throw error;
    throw new HandoverError(
      `A frame of type "${type}" is against the protocol: ${error.message}`,
      "ERR_HANDOVER_PROTOCOL",
    );
  }
}
