/**
 * The names under which a generation puts its sockets into the descriptor store of its service manager: they come back
 * with these names alone (sd_pid_notify_with_fds(3), FDNAME=).
 *
 * @module
 */

/** What a name tells of a socket. */
export interface StoredSocket {
  /** Whether it accepts connections or receives datagrams. */
  kind: "listener" | "datagram";
  /** The address that the program asked for, as a generation writes it; absent if it was too long. */
  key?: string;
  /** The `name` that the program gave it. */
  name?: string;
}

const prefix = "graceful?";

/** The most bytes of a name: systemd calls a descriptor "stored" if its name is longer. */
const maxBytes = 255;

/** The name of a socket: printable ASCII without ":". */
export function storeName({ kind, key, name }: StoredSocket): string {
  const fields = { kind, ...key !== undefined && { key }, ...name !== undefined && { name } };
  const text = prefix + new URLSearchParams(fields);
  if (text.length <= maxBytes) return text;
  // A long name is found by nothing else; a long address is also that which the socket is bound to.
  return key === undefined ? prefix + new URLSearchParams({ kind }) : storeName({ kind, name });
}

/** Whether it is a name of `storeName`. */
export function isStoreName(text: string): boolean {
  return text.startsWith(prefix);
}

/** Reads a name; undefined if it is not of `storeName`. */
export function parseStoreName(text: string): StoredSocket | undefined {
  if (!isStoreName(text)) return undefined;
  const fields = new URLSearchParams(text.slice(prefix.length));
  const kind = fields.get("kind");
  if (kind !== "listener" && kind !== "datagram") return undefined;
  return { kind, key: fields.get("key") ?? undefined, name: fields.get("name") ?? undefined };
}
