/**
 * Takes the descriptors of a service manager, and prints as JSON what it has got and what is left; with `--hold`, then
 * holds them until a line is read, and prints the flags again.
 *
 * @module
 */

import { dup, isKeptOnExec, isNonblocking, isOpen, setNonblocking } from "../../ffi/fd.ts";
import { describeDescriptor, openDescriptors } from "../../ffi/proc.ts";
import { localAddress } from "../../ffi/socket.ts";
import { socketKind } from "../../ffi/socket_options.ts";
import { fdListener, listenFds } from "../../mod.ts";
import { told } from "../support/child.ts";

const before = new Map(openDescriptors().map((raw) => [raw, describeDescriptor(raw)]));
const warnings: string[] = [];
const logger = { warn: (message: string) => void warnings.push(message) };
const began = performance.now();
const taken = listenFds({ logger });
const milliseconds = performance.now() - began;
const again = listenFds({ logger });
const variables = Object.keys(Deno.env.toObject()).filter((name) => name.startsWith("LISTEN_"));
const child = new Deno.Command("sh", {
  args: ["-c", "env | grep -c ^LISTEN_; ls -l /proc/$$/fd | grep -c socket:"],
});
const [childVariables, childSockets] = new TextDecoder().decode(child.outputSync().stdout)
  .trim().split("\n").map(Number);
console.log(JSON.stringify({
  pid: Deno.pid,
  milliseconds,
  taken: taken.map(({ fd, name }) => ({
    raw: fd.raw,
    name,
    senderPid: fd.senderPid,
    address: socketKind(fd.raw) && localAddress(fd.raw),
    keptOnExec: isKeptOnExec(fd.raw),
    nonblocking: isNonblocking(fd.raw),
  })),
  again: again.length,
  warnings,
  variables,
  childVariables,
  childSockets,
  // Those that this program did not open itself.
  lost: [...before].filter(([raw, what]) => isOpen(raw) && describeDescriptor(raw) !== what),
  closed: [...before].filter(([raw]) => !isOpen(raw)),
}));

if (Deno.args.includes("--hold")) {
  // The native listeners have other numbers.
  const raws = taken.map(({ fd }) => dup(fd.raw));
  const listeners = taken.map(({ fd }) => fdListener(fd));
  console.log("held");
  for await (const line of told()) {
    if (line === "block") { for (const raw of raws) setNonblocking(raw, false); }
    console.log(raws.map(isNonblocking).join(" "));
    if (line === "end") break;
  }
  for (const listener of listeners) listener.close();
}
