/**
 * Takes a listener over and holds it, to the end of its input.
 *
 * @module
 */

import { fdListener, receive } from "../../mod.ts";
import { told } from "../support/child.ts";

const listeners: Deno.Listener[] = [];
await receive(Deno.args[0], (fd) => void listeners.push(fdListener(fd)));
console.log("holding");
for await (const _ of told());
