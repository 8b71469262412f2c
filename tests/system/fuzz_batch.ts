/**
 * Many conversations and gobs, with a count of the descriptors of the process before and after.
 *
 * @module
 */

import { closeAll } from "../../ffi/fd.ts";
import { ready } from "../../lib/event_loop/reactor.ts";
import { describeDescriptor, openDescriptors } from "../../ffi/proc.ts";
import { socketPair } from "../../ffi/socket.ts";
import { pause } from "../../lib/time.ts";
import { until } from "../support/until.ts";
import { describe, hexOf } from "./fuzz_conversation.ts";
import { type Receiver, runConversation } from "./fuzz_converse.ts";
import { makeConversation } from "./fuzz_generate.ts";
import { decodeGob, gobSeeds, makeGob } from "./fuzz_gobs.ts";
import { fileDescriptors } from "./fuzz_sender.ts";

/** Opens the descriptors that stay open, before they are counted. */
export async function warmUp(): Promise<void> {
  fileDescriptors();
  const pair = socketPair();
  await ready(pair[0], "writable");
  closeAll(pair);
  // The library closes a high descriptor, which makes the descriptor table grow, on another thread.
  await until(() => openDescriptors().every((raw) => raw < 4000));
}

/** The counts of a batch. */
export interface Tally {
  conversations: number;
  delivered: number;
  /** Conversations by mutation or circumstance, gobs by mutation. */
  kinds: Record<string, number>;
  /** Conversations and gobs by how they ended. */
  ends: Record<string, number>;
  /** The problems, each with its conversation or gob. */
  findings: string[];
}

/** An empty tally. */
export function emptyTally(): Tally {
  return { conversations: 0, delivered: 0, kinds: {}, ends: {}, findings: [] };
}

/** Adds one tally to another. */
export function addTally(to: Tally, more: Tally): void {
  to.conversations += more.conversations;
  to.delivered += more.delivered;
  for (const [counts, added] of [[to.kinds, more.kinds], [to.ends, more.ends]]) {
    for (const [name, n] of Object.entries(added)) counts[name] = (counts[name] ?? 0) + n;
  }
  to.findings.push(...more.findings);
}

/** Runs one conversation and decodes one gob. */
export async function runOne(
  seed: number,
  index: number,
  receiver?: Receiver,
): Promise<{ tally: Tally; leaked: string[] }> {
  return await runSpan(seed, index, index + 1, receiver);
}

async function runSpan(
  seed: number,
  from: number,
  to: number,
  receiver?: Receiver,
): Promise<{ tally: Tally; leaked: string[] }> {
  const tally = emptyTally();
  const count = (counts: Record<string, number>, name: string) =>
    counts[name] = (counts[name] ?? 0) + 1;
  const before = openDescriptors();
  for (let index = from; index < to; index++) {
    const conversation = makeConversation(seed, index);
    const { end, delivered, problems } = await runConversation(conversation, receiver);
    const gob = makeGob(seed, index, gobSeeds());
    const decoded = decodeGob(gob);
    tally.conversations++;
    tally.delivered += delivered;
    for (const kind of [...new Set(conversation.kinds), ...new Set(gob.kinds)]) {
      count(tally.kinds, kind);
    }
    count(tally.ends, end);
    count(tally.ends, decoded.end);
    for (const problem of problems) tally.findings.push(`${problem}\n${describe(conversation)}`);
    for (const problem of decoded.problems) {
      tally.findings.push(
        `${problem}\nseed ${seed}, gob ${index}: ${gob.kinds}\n  ${hexOf(gob.bytes, 4096)}`,
      );
    }
  }
  return { tally, leaked: await changes(before) };
}

/** The descriptors that were opened or closed since `before`; waits, for Deno closes some of its own later. */
async function changes(before: number[]): Promise<string[]> {
  for (let tries = 0;; tries++) {
    const now = openDescriptors();
    const open = new Set(now);
    const lost = before.filter((raw) => !open.delete(raw));
    const more = [...open].map(describeDescriptor)
      // Deno opens the SQLite files of its caches at any time.
      .filter((name) => name !== undefined && !/_cache_v\d+(-wal|-shm)?$/.test(name));
    if (lost.length + more.length === 0 || tries === 100) {
      return [...more.map((name) => `left open: ${name}`), ...lost.map((raw) => `closed: ${raw}`)];
    }
    await pause(tries);
  }
}

/** Runs the conversations of a batch; if they leak descriptors, finds the conversation that does. */
export async function runBatch(
  seed: number,
  from: number,
  to: number,
  receiver?: Receiver,
): Promise<Tally> {
  const { tally, leaked } = await runSpan(seed, from, to, receiver);
  if (leaked.length === 0) return tally;
  let found = false;
  for (let index = from; index < to && !found; index++) {
    const { leaked } = await runOne(seed, index, receiver);
    if (leaked.length === 0) continue;
    found = true;
    tally.findings.push(
      `${leaked.join(", ")}\n${describe(makeConversation(seed, index))}`,
    );
  }
  if (!found && excused++ > 0) {
    tally.findings.push(
      `${leaked.join(", ")} after the conversations from ${from} to ${to} of seed ${seed}, but ` +
        `after none of them alone`,
    );
  }
  return tally;
}

/** One leak without a conversation is excused: Deno opens a socket pair of its own some time after its start. */
let excused = 0;
