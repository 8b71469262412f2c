/**
 * Adopts and uses many objects, on one of several threads that do so at the same time.
 *
 * @module
 */

import { c } from "../../ffi/abi.ts";
import { check } from "../../ffi/errno.ts";
import { cString, libc } from "../../ffi/libc.ts";
import { socketPair } from "../../ffi/socket.ts";
import { listenLoopback } from "./loopback.ts";
import { denoRegistrations } from "../../lib/event_loop/registration.ts";
import { fdConn, fdFile, fdListener } from "../../mod.ts";

/** The outcome on one thread. */
export interface Adopted {
  /** How many rounds passed. */
  adopted: number;
  /** The descriptors that the runtime of the thread watched after any round. */
  watched: number[];
}

/**
 * Adopts a listener and both ends of a connection in each round, and reads a byte from the server at `port`;
 * with a `path`, also adopts the file at that path.
 */
export async function adoptAgainAndAgain(
  count: number,
  port: number,
  path: string,
): Promise<Adopted> {
  const watched = new Set<number>();
  let adopted = 0;
  for (let i = 0; i < count; i++) {
    const own = listenLoopback();
    using listener = fdListener(own.raw);
    const accepting = listener.accept();
    using client = await Deno.connect({ hostname: "127.0.0.1", port: own.port });
    using accepted = await accepting;
    await converse(client, accepted);
    const [a, b] = socketPair();
    using left = await fdConn(a);
    using right = await fdConn(b);
    await converse(left, right);
    if (path) readAdopted(path);
    using host = await Deno.connect({ hostname: "127.0.0.1", port });
    if (await host.read(new Uint8Array(1)) !== 1) throw new Error("The host did not answer");
    for (const { tfd } of denoRegistrations()) watched.add(tfd);
    adopted++;
  }
  return { adopted, watched: [...watched] };
}

async function converse(a: Deno.Conn, b: Deno.Conn): Promise<void> {
  const reading = b.read(new Uint8Array(2));
  await a.write(new Uint8Array(1));
  if (await reading !== 1) throw new Error("A byte was lost");
}

function readAdopted(path: string): void {
  const content = Deno.readTextFileSync(path);
  using file = fdFile(check(libc().open(cString(path), c.O_CLOEXEC, 0), "Cannot open the file"));
  const read = new Uint8Array(2 * content.length);
  const n = file.readSync(read) ?? 0;
  if (new TextDecoder().decode(read.subarray(0, n)) !== content) {
    throw new Error(`Read ${n} bytes of another file`);
  }
}
