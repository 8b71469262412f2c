/**
 * An offer: everything that a generation hands over, sent by the old process and received by the new one.
 *
 * @module
 */

import { Fd } from "../../ffi/fd.ts";
import { quoted } from "../../ffi/quote.ts";
import { socketKind } from "../../ffi/socket_options.ts";
import { DisposableStack } from "../disposable_stack.ts";
import { HandoverError } from "../errors.ts";
import type { UnixListener } from "../unix/listener.ts";
import type { WaitOptions } from "../unix/conn.ts";
import { type Channel, isEnd, type Passed } from "./channel.ts";
import { offerFrames, unexpected } from "./frame.ts";
import { Inheritance } from "./inheritance.ts";
import { type Frame, offeredFile, type OfferedItem } from "./protocol.ts";
import type { Resources } from "./resources.ts";
import { type KeptValue, whyNotKeepable } from "./state.ts";

/** What an offer is made of. */
export interface Offered {
  /** The number of the generation that makes it. */
  generation: number;
  control: UnixListener;
  resources: Resources;
  kept: ReadonlyMap<string, KeptValue>;
  /** The unit that the generation speaks for. */
  invocation: string | undefined;
  /** Whether stdout and stderr go along: the successor was started by this process. */
  withOutput: boolean;
}

/** Sends an offer; the descriptors stay here as well. */
export async function sendOffer(
  channel: Channel,
  { generation, control, resources, kept, invocation, withOutput }: Offered,
  signal: AbortSignal,
): Promise<void> {
  const state: Uint8Array[] = [];
  const descriptors: Passed[] = [];
  const items: OfferedItem[] = [];
  const add = (item: OfferedItem, fd: Fd | number) => {
    items.push(item);
    descriptors.push({ fd });
  };
  const { file } = control;
  add({ kind: "control", key: "", file: file && offeredFile(file) }, control.fd);
  if (withOutput) {
    add({ kind: "stdout", key: "" }, 1);
    add({ kind: "stderr", key: "" }, 2);
  }
  // Awaited before anything else is collected: the offer is the state of one moment.
  for (const { settled } of kept.values()) if (settled) await settled;
  for (const { item, fd } of resources.offered()) add(item, fd);
  for (const [name, { fd, state: value }] of kept) {
    if (fd) add({ kind: "kept", key: name }, fd);
    if (!value) continue;
    const bytes = bytesOf(name, value);
    state.push(bytes);
    items.push({ kind: "state", key: name, bytes: bytes.length });
  }
  const frames = offerFrames({ generation, pid: Deno.pid, invocation }, items);
  const last = frames.pop()!;
  for (const frame of frames) await channel.send(frame, { signal });
  await channel.send(last, { state, descriptors, signal });
}

/** Calls the function of a kept value for its bytes. */
function bytesOf(name: string, value: () => Uint8Array): Uint8Array {
  try {
    const bytes = value();
    const what = whyNotKeepable(bytes);
    if (what !== undefined) throw new TypeError(what);
    if (bytes instanceof Uint8Array) return bytes;
    throw new TypeError("its function returns something else than a Uint8Array");
  } catch (cause) {
    const what = `${quoted(name)} cannot be handed over: ${(cause as Error).message}`;
    throw new HandoverError(what, undefined, { cause });
  }
}

/** Receives what an offer announces; gives undefined when the process that offers it has ended. */
export async function receiveOffer(
  channel: Channel,
  { items: first, more = 0 }: Frame & { type: "offer" },
  waiting: WaitOptions,
): Promise<Inheritance | undefined> {
  using received = new DisposableStack();
  const inheritance = received.use(new Inheritance());
  try {
    const items = [...first];
    for (let left = more; left > 0;) {
      const frame = await channel.receive(waiting);
      if (!frame) return undefined;
      const count = frame.type === "items" ? frame.items.length : 0;
      if (frame.type !== "items" || count === 0 || count > left) throw unexpected(frame);
      for (const item of frame.items) items.push(item);
      left -= frame.items.length;
    }
    const announced = items.filter(({ bytes }) => bytes !== undefined);
    const states = await channel.receiveState(announced.map(({ bytes }) => bytes!), waiting);
    for (const [i, item] of announced.entries()) inheritance.add({ item, state: states[i] });
    const open = items.filter(({ bytes }) => bytes === undefined);
    const descriptors = await channel.receiveDescriptors(open.length, waiting);
    for (const { fd } of descriptors) received.use(fd);
    // The process numbers of another PID namespace are those of other processes here (socket(7), SO_PEERCRED).
    const isElsewhere = channel.conn.peer.pid === 0;
    for (const [i, item] of open.entries()) {
      const { fd } = descriptors[i];
      checkKind(item, fd.raw);
      const senderPid = item.senderPid !== undefined && isElsewhere ? 0 : item.senderPid;
      inheritance.add({ item, fd: new Fd(fd.take(), senderPid) });
    }
  } catch (error) {
    if (isEnd(error)) return undefined;
    throw error;
  }
  received.move();
  return inheritance;
}

/** @throws {HandoverError} When a descriptor is of another kind than its item says. */
function checkKind({ kind, path, key }: OfferedItem, raw: number): void {
  const isListener = kind === "listener" || kind === "control";
  if (!isListener && kind !== "datagram") return;
  const is = socketKind(raw);
  const fits = isListener ? is?.type === "stream" && is.listening : is?.type === "datagram";
  const isUnix = kind === "control" || path !== undefined;
  if (fits && (!isUnix || is?.domain === "unix")) return;
  const what = isListener ? `listening ${isUnix ? "unix " : ""}stream socket` : "datagram socket";
  throw new HandoverError(
    `The descriptor that was offered as ${kind} ${quoted(key)} is no ${what}`,
    "ERR_HANDOVER_PROTOCOL",
  );
}
