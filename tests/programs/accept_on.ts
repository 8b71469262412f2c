/**
 * Takes a unix listener over, as one whose donor is known or not, and accepts on it when told: nobody
 * will come, and the signal ends the wait.
 *
 * @module
 */

import { Fd, receive, UnixListener } from "../../mod.ts";
import { told } from "../support/child.ts";

const [path, senderPid] = Deno.args;
const listeners: UnixListener[] = [];
await receive(path, (fd) => {
  const known = senderPid === "known" ? fd.senderPid : undefined;
  listeners.push(new UnixListener(new Fd(fd.take(), known)));
});
console.log("holding");
for await (const _ of told()) {
  const controller = new AbortController();
  let turns = 0;
  const timer = setInterval(() => {
    if (++turns === 3) controller.abort(new Error("enough"));
  });
  const { signal } = controller;
  const outcome = await listeners[0].accept({ signal }).catch(({ message }) => message);
  clearInterval(timer);
  console.log(outcome);
}
