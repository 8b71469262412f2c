/**
 * The properties of a systemd unit, as `systemctl show` prints them.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

/** The properties that are asked for; an older systemd leaves out unknown ones. */
export const propertyNames = [
  ...["Id", "LoadState", "ActiveState", "SubState", "Result", "NeedDaemonReload", "InvocationID"],
  ...["Type", "NotifyAccess", "PIDFile", "MainPID", "ControlGroup", "Restart", "OOMPolicy"],
  ...["StartLimitIntervalUSec", "StartLimitBurst", "TimeoutStartUSec", "TimeoutStopUSec"],
  ...["FileDescriptorStoreMax", "NFileDescriptorStore", "NonBlocking", "TriggeredBy"],
  ...["ExecStart", "ExecReload", "Environment", "KillMode", "KillSignal", "RuntimeDirectory"],
  ...["RuntimeDirectoryPreserve", "SystemCallFilter", "SystemCallErrorNumber"],
  ...["MemoryDenyWriteExecute", "RestrictAddressFamilies", "PrivatePIDs", "InaccessiblePaths"],
] as const;

/** Properties by name, as text. */
export type UnitProperties = Partial<Record<typeof propertyNames[number], string>>;

/** Reads `NAME=VALUE` lines; those of a property with several values, such as ExecReload, are joined by line breaks. */
export function parseProperties(text: string): UnitProperties {
  const properties: Record<string, string> = {};
  for (const line of text.split("\n")) {
    const end = line.indexOf("=");
    if (end <= 0) continue;
    const [name, value] = [line.slice(0, end), line.slice(end + 1)];
    properties[name] = Object.hasOwn(properties, name) ? `${properties[name]}\n${value}` : value;
  }
  return properties;
}

/** The command lines of ExecStart or ExecReload; systemd joins the arguments of each by spaces. */
export function commandLines(value: string | undefined): string[] {
  return Array.from(
    (value ?? "").matchAll(/ argv\[\]=(.*?) ; ignore_errors=/g),
    ([, line]) => line,
  );
}

const units: Record<string, number> = {
  ...{ us: 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600, d: 86400, w: 604800 },
  ...{ month: 2629800, y: 31557600 },
};

/** Seconds of a time span, such as "1min 30s" (systemd.time(7)); undefined where it is none. */
export function seconds(value: string | undefined): number | undefined {
  if (value === "infinity") return Infinity;
  if (value === "0") return 0;
  let sum = 0;
  for (const part of value?.split(" ") ?? [""]) {
    const [, amount, unit] = /^([\d.]+)([a-z]+)$/.exec(part) ?? [];
    if (units[unit] === undefined) return undefined;
    sum += Number(amount) * units[unit];
  }
  return sum;
}

/** A list that allows its names, or with "~" before them allows all others; undefined where nothing is restricted. */
export function allows(value: string | undefined, name: string): boolean | undefined {
  if (value === undefined || value === "~") return undefined;
  const isDenyList = value.startsWith("~");
  // A system call may have an error of its own: "pkey_alloc:EPERM".
  const listed = value.replace(/^~/, "").split(" ").some((each) => each.split(":")[0] === name);
  return listed !== isDenyList;
}
