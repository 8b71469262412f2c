/**
 * Restrictions of systemd.exec(5) under which Deno, or a restart, does not work.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import { type Finding, ok, problem, warning } from "./finding.ts";
import { allows, commandLines, type UnitProperties } from "./unit.ts";

/** The value of SystemCallErrorNumber for "kill" (systemd, src/shared/seccomp-util.h, SECCOMP_ERROR_NUMBER_KILL). */
const kills = "2147483646";

/** @param isRunning Whether a generation of the unit answers. */
export function sandboxFindings(unit: UnitProperties, isRunning: boolean): Finding[] {
  const found = rules.map((rule) => rule(unit, isRunning)).filter((each) => each !== undefined);
  return found.length > 0
    ? found
    : [ok("sandbox", "No restriction stops the service or a restart")];
}

const rules: ((unit: UnitProperties, isRunning: boolean) => Finding | undefined)[] = [
  function systemCalls({ SystemCallFilter: filter, SystemCallErrorNumber: error }) {
    // An empty text is how older versions show that nothing is filtered.
    if (!filter || allows(filter, "pkey_alloc") !== false) return undefined;
    if (error !== undefined && error !== kills) return undefined;
    const text =
      "SystemCallFilter= does not allow pkey_alloc(2): V8 calls it, and the kernel ends the process " +
      "with SIGSYS";
    const advice = filter.startsWith("~")
      ? "Take @pkey out of SystemCallFilter=~, or write SystemCallErrorNumber=EPERM into [Service]"
      : "Write SystemCallFilter=@system-service @pkey, or SystemCallErrorNumber=EPERM into [Service]";
    return problem("SystemCallFilter", text, advice);
  },

  function executableMemory(unit) {
    if (unit.MemoryDenyWriteExecute !== "yes") return undefined;
    const given = `${unit.Environment ?? ""} ${commandLines(unit.ExecStart).join(" ")}`;
    if (/--jitless/.test(given)) {
      return ok("MemoryDenyWriteExecute", "MemoryDenyWriteExecute=yes, with --jitless");
    }
    const text =
      "MemoryDenyWriteExecute=yes: the compiler of V8 cannot make code executable, and the process aborts";
    const advice = "Remove it, or write Environment=DENO_V8_FLAGS=--jitless into [Service]";
    return problem("MemoryDenyWriteExecute", text, advice);
  },

  function addressFamilies({ RestrictAddressFamilies: families }, isRunning) {
    if (families === "" && isRunning || allows(families, "AF_UNIX") !== false) return undefined;
    const text = "RestrictAddressFamilies= does not allow AF_UNIX: no control socket can be made";
    const advice = "Write RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 into [Service]";
    return problem("RestrictAddressFamilies", text, advice);
  },

  function processNumbers({ PrivatePIDs: isPrivate }) {
    if (isPrivate !== "yes") return undefined;
    const text =
      "PrivatePIDs=yes: the service is process 1 of a namespace of its own, with whose end " +
      "the kernel ends the next generation";
    return problem("PrivatePIDs", text, "Write PrivatePIDs=no into [Service], or remove the line");
  },

  function processFiles({ InaccessiblePaths: paths }) {
    if (!paths?.split(" ").some((path) => /^[-+]*\/proc\/?$/.test(path))) return undefined;
    const text = "InaccessiblePaths= has /proc: descriptors and processes are found there";
    const advice = "Take /proc out of InaccessiblePaths=; ProtectProc=invisible may stay";
    return warning("InaccessiblePaths", text, advice);
  },
];
