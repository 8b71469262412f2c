/**
 * Has a listener whose alarm others wait with, and closes it: what is waited for then keeps the process
 * running. Prints a line, and ends when a connection comes.
 *
 *     outlive.ts before|after    when the others are referenced
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import { connect, listen, type UnixListener } from "../../mod.ts";

const [when] = Deno.args;
const name = () => `\0outlive-${crypto.randomUUID()}`;
const listener = listen(name());
const other = listen(name());

async function serve(one: UnixListener): Promise<void> {
  const accepting = one.accept();
  await pause(0);
  using _client = await connect(one.addr.path!);
  (await accepting).close();
}

for (let i = 0; i < 100; i++) await serve(listener);
other.unref();
const accepting = other.accept();
await pause(20);
if (when === "before") other.ref();
listener.close();
if (when === "after") other.ref();
accepting.then((conn) => {
  conn.close();
  other.close();
});
const timer = setTimeout(async () => {
  console.log("waiting");
  (await connect(other.addr.path!)).close();
}, 100);
Deno.unrefTimer(timer);
