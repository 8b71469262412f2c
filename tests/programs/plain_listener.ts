/**
 * Serves on descriptor 3 without a guard of its O_NONBLOCK: a control. Prints "here" for each line that it reads.
 *
 * @module
 */

import { fdListener } from "../../mod.ts";
import { told } from "../support/child.ts";

const listener = fdListener(3);
console.log("serving");
void (async () => {
  for await (const _ of told()) console.log("here");
})();
for await (const conn of listener) {
  await conn.read(new Uint8Array(1000));
  const answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nplain";
  await conn.write(new TextEncoder().encode(answer));
  conn.close();
}
