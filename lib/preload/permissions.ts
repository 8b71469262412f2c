/**
 * The permissions that a preloaded program needs beside its own.
 *
 * @module
 */

/** What is needed, and the flag that permits it. */
const needed: readonly [Deno.PermissionDescriptor, string][] = [
  [{ name: "ffi" }, "--allow-ffi"],
  [{ name: "run", command: "/bin/sh" }, "--allow-run=/bin/sh"],
  [{ name: "net", host: "127.0.0.1:0" }, "--allow-net=127.0.0.1:0"],
];

/** Whether the program is not to be restartable, as far as that may be read without the C library. */
export function isOff(): boolean {
  const variable = "GRACEFUL";
  return isGranted({ name: "env", variable }) && Deno.env.get(variable) === "off";
}

/** Whether the C library may be called, which needs no other permission. */
export function mayUseLibrary(): boolean {
  return isGranted(needed[0][0]);
}

/** @throws {Deno.errors.NotCapable} When flags are missing; the message names them. */
export function checkPermissions(): void {
  const missing = needed.filter(([permission]) => !isGranted(permission)).map(([, flag]) => flag);
  if (missing.length === 0) return;
  throw new Deno.errors.NotCapable(
    `Cannot make this program restartable without ${missing.join(" ")}: run it with ` +
      `${
        missing.length === 1 ? "that flag" : "these flags"
      } beside its own, or with -A; or as without the preload ` +
      "module, with GRACEFUL=off and --allow-env=GRACEFUL",
  );
}

function isGranted(permission: Deno.PermissionDescriptor): boolean {
  return Deno.permissions.querySync(permission).state === "granted";
}
