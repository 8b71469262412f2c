/**
 * Has the generation at a control path restart, as `cli.ts restart` does.
 *
 * @module
 */

import { Channel } from "../generation/channel.ts";
import { connect } from "../unix/conn.ts";

/**
 * Requests a restart, and waits until the probation of the next generation is over. Gives the new generation, or
 * undefined when no process listens at the path: the service has no generations.
 *
 * @throws {Error} When the restart failed, or the process at the path is no generation.
 */
export async function requestRestart(
  path: string,
  signal: AbortSignal,
): Promise<{ generation: number; pid: number } | undefined> {
  using channel = await open(path, signal);
  if (!channel) return undefined;
  await channel.tell({ type: "restart" });
  const answer = await channel.receive({ signal });
  if (answer?.type === "done") return answer;
  if (answer?.type === "failed") throw new Error(answer.message);
  if (answer?.type === "refused") throw new Error(answer.reason);
  throw new Error("the process that listens at the control path hung up");
}

async function open(path: string, signal: AbortSignal): Promise<Channel | undefined> {
  try {
    return new Channel(await connect(path, { signal }));
  } catch (error) {
    const { NotFound, ConnectionRefused } = Deno.errors;
    if (error instanceof NotFound || error instanceof ConnectionRefused) return undefined;
    throw error;
  }
}
