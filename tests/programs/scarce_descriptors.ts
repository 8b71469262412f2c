/**
 * Calls what opens descriptors with ever more of them left, from none until the call succeeds, and prints for each
 * call what the failed ones have left open, and which files; to be run under a low limit.
 *
 * @module
 */

import { closeAll, dup } from "../../ffi/fd.ts";
import { describeDescriptor, openDescriptors } from "../../ffi/proc.ts";
import { socketPair } from "../../ffi/socket.ts";
import { findConn } from "../../lib/native/conn_descriptor.ts";
import { listenerDescriptor } from "../../lib/native/descriptor.ts";
import { connect, fdConn, fdListener, fdPacketConn, listen, start } from "../../mod.ts";
import { isDenoCache, openSignalSockets } from "../support/deno_descriptors.ts";

const [directory] = Deno.args;
openSignalSockets();

interface Call {
  name: string;
  /** Makes the call, and closes its result. */
  make(): unknown;
}

const app = await start(`${directory}/control.sock`, { stopOn: [] });
const tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
const peers = listen(`${directory}/peers.sock`);
const native = await Deno.connect({ transport: "unix", path: peers.addr.path! });
const at = (name: string) => `${directory}/${name}.sock`;

const calls: Call[] = [
  { name: "app.listen, path", make: () => app.listen({ path: at("a") }).close() },
  { name: "app.listen, port", make: () => app.listen({ hostname: "127.0.0.1", port: 0 }).close() },
  { name: "app.listenDatagram, path", make: () => app.listenDatagram({ path: at("b") }).close() },
  { name: "listen", make: () => listen(at("c")).close() },
  { name: "listen, replace", make: () => listen(at("d"), { replace: true }).close() },
  { name: "connect", make: async () => (await connect(peers.addr.path!)).close() },
  { name: "listenerDescriptor", make: () => listenerDescriptor(tcp).close() },
  { name: "findConn", make: () => findConn(native).fd.close() },
  {
    name: "fdListener",
    make: () => adopting(listenerDescriptor(tcp).take(), (raw) => fdListener(raw)),
  },
  { name: "fdConn", make: () => adopting(onePeer("stream"), (raw) => fdConn(raw)) },
  { name: "fdPacketConn", make: () => adopting(onePeer("datagram"), (raw) => fdPacketConn(raw)) },
];

function onePeer(type: "stream" | "datagram"): number {
  const [raw, other] = socketPair(type);
  closeAll([other]);
  return raw;
}

/** Adopts `raw`, which stays the caller's if that fails. */
async function adopting(raw: number, adopt: (raw: number) => unknown): Promise<void> {
  try {
    const object = await adopt(raw) as { close(): void };
    object.close();
  } catch (error) {
    closeAll([raw]);
    throw error;
  }
}

/** Takes every number that is left, but for `spare`. */
function occupy(spare: number): number[] {
  const taken: number[] = [];
  try {
    for (;;) taken.push(dup(0));
  } catch {
    closeAll(taken.splice(0, spare));
    return taken;
  }
}

const files = () => [...Deno.readDirSync(directory)].map(({ name }) => name).sort();

for (const { name, make } of calls) {
  // What the library keeps open for good, it opens at the first call.
  await make();
  const before = new Set(openDescriptors());
  const filesBefore = files().join();
  const errors: string[] = [];
  const left: string[] = [];
  for (let spare = 0;; spare++) {
    const taken = occupy(spare);
    let failed = false;
    try {
      await make();
    } catch (error) {
      failed = true;
      errors.push(`${error}`);
    } finally {
      closeAll(taken);
    }
    for (const raw of openDescriptors()) {
      if (!before.has(raw) && !isDenoCache(raw)) {
        left.push(`with ${spare} left: ${describeDescriptor(raw)}`);
      }
    }
    if (files().join() !== filesBefore) left.push(`with ${spare} left: ${files()}`);
    if (!failed || left.length > 0 || spare > 20) break;
  }
  console.log(JSON.stringify({ name, errors, left }));
}
await app.stop();
