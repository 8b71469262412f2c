/**
 * Whether this system passes descriptors.
 *
 * @module
 */

import { supported } from "./abi.ts";

/** The error of each call that needs the C library, on a system that has another one than `abi.ts` is for. */
export function noDescriptors(): Deno.errors.NotSupported | undefined {
  if (supported) return undefined;
  return new Deno.errors.NotSupported(
    `Descriptors are passed on Linux x86_64 and aarch64; this is ${Deno.build.os} ${Deno.build.arch}`,
  );
}
