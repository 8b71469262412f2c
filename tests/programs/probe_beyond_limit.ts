/**
 * Looks for the descriptor of a connection whose number is over the limit of open descriptors: no other may be put in
 * its place then (dup(2), EBADF), so that a probe fails half-way.
 *
 * @module
 */

import { closeAll, dup } from "../../ffi/fd.ts";
import { describeDescriptor, openDescriptors } from "../../ffi/proc.ts";
import { findConn } from "../../lib/native/conn_descriptor.ts";

const [path] = Deno.args;
const RLIMIT_NOFILE = 7;
const { symbols: { setrlimit } } = Deno.dlopen("libc.so.6", {
  setrlimit: { parameters: ["i32", "buffer"], result: "i32" },
});

const low = Array.from({ length: 200 }, () => dup(0));
using listener = Deno.listen({ transport: "unix", path });
using conn = await Deno.connect({ transport: "unix", path });
using _accepted = await listener.accept();
closeAll(low);
// What the library keeps open for good, it opens at its first search.
findConn(conn).fd.close();
const before = new Set(openDescriptors());
if (setrlimit(RLIMIT_NOFILE, new BigUint64Array([150n, 1024n])) !== 0) throw new Error("setrlimit");
let error = "";
try {
  findConn(conn).fd.close();
} catch (thrown) {
  error = `${(thrown as Error).cause}`;
}
// Deno itself may open a pipe at any time.
const left = openDescriptors().filter((raw) => !before.has(raw)).map(describeDescriptor)
  .filter((what) => what?.startsWith("socket:"));
console.log(JSON.stringify({ error, left }));
