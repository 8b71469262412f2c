/**
 * Prints how many descriptors its table has room for, once it is as many as told.
 *
 * @module
 */

import { isOpen } from "../../ffi/fd.ts";
import { openDescriptors } from "../../ffi/proc.ts";
import { until } from "../support/until.ts";

const wanted = Number(Deno.args[0]);
const room = () => Number(/^FDSize:\s*(\d+)/m.exec(Deno.readTextFileSync("/proc/self/status"))![1]);
isOpen(0);
await until(() => room() >= wanted);
await until(() => openDescriptors().every((raw) => raw < wanted / 2));
console.log(room());
