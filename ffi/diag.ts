/**
 * Sockets as the kernel has them (sock_diag(7)): the file that a unix socket is bound to, and the accept queues of the
 * listeners of all processes.
 *
 * @module
 */

import { c, structs } from "./abi.ts";
import { closeRaw } from "./fd.ts";
import { fileStatus, isSameFile, openName, readText, statusOf } from "./file.ts";
import { libc } from "./libc.ts";
import { type Address, unpackAddress } from "./sockaddr.ts";
import { bytes, struct } from "./struct.ts";

// linux/netlink.h
const nlmsghdr = struct({
  nlmsg_len: "u32",
  nlmsg_type: "u16",
  nlmsg_flags: "u16",
  nlmsg_seq: "u32",
  nlmsg_pid: "u32",
});
const nlattr = struct({ nla_len: "u16", nla_type: "u16" });

// linux/unix_diag.h
const request = struct({
  header: nlmsghdr,
  sdiag_family: "u8",
  sdiag_protocol: "u8",
  pad: "u16",
  udiag_states: "u32",
  udiag_ino: "u32",
  udiag_show: "u32",
  udiag_cookie: "u64",
});
const unix_diag_msg = struct({
  udiag_family: "u8",
  udiag_type: "u8",
  udiag_state: "u8",
  pad: "u8",
  udiag_ino: "u32",
  udiag_cookie: "u64",
});
const unix_diag_vfs = struct({ udiag_vfs_ino: "u32", udiag_vfs_dev: "u32" });
const unix_diag_rqlen = struct({ udiag_rqueue: "u32", udiag_wqueue: "u32" });

// linux/inet_diag.h
const inet_diag_sockid = struct({
  idiag_sport: "u16be",
  idiag_dport: "u16be",
  idiag_src: bytes(16),
  idiag_dst: bytes(16),
  idiag_if: "u32",
  idiag_cookie: bytes(8),
});
const inet_diag_req_v2 = struct({
  header: nlmsghdr,
  sdiag_family: "u8",
  sdiag_protocol: "u8",
  idiag_ext: "u8",
  pad: "u8",
  idiag_states: "u32",
  id: inet_diag_sockid,
});
const inet_diag_msg = struct({
  idiag_family: "u8",
  idiag_state: "u8",
  idiag_timer: "u8",
  idiag_retrans: "u8",
  id: inet_diag_sockid,
  idiag_expires: "u32",
  idiag_rqueue: "u32",
  idiag_wqueue: "u32",
  idiag_uid: "u32",
  idiag_inode: "u32",
});

/**
 * Whether the unix socket `raw` is bound to the file at `path`, which is that of `status`; undefined where this
 * cannot be told: a sandbox may refuse AF_NETLINK.
 */
export function isBoundTo(
  raw: number,
  path: string,
  status: { dev: bigint; ino: bigint },
): boolean | undefined {
  const bound = boundFile(raw);
  return bound && isFileAt(bound, path, status);
}

/** Whether a socket is bound to the file at `path`, which is that of `status`; undefined where this cannot be told. */
export function isFileAt(
  bound: BoundFile,
  path: string,
  status: { dev: bigint; ino: bigint },
): boolean | undefined {
  // File systems made of others (btrfs, overlayfs) show another device to stat(2) than the kernel's own.
  const file = bound.dev === status.dev ? status : asMounted(path, status);
  return file && bound.dev === file.dev && bound.ino === BigInt.asUintN(32, file.ino);
}

/** Device and inode of a file as the kernel has them (proc_pid_fdinfo(5), proc_pid_mountinfo(5); Linux 5.14). */
function asMounted(
  path: string,
  status: { dev: bigint; ino: bigint },
): { dev: bigint; ino: bigint } | undefined {
  let raw: number;
  try {
    raw = openName(path, "");
  } catch {
    // It is gone, or no descriptor is left: then nothing can be told.
    return undefined;
  }
  try {
    if (!isSameFile(statusOf(raw), status)) return undefined;
    const info = readText(`/proc/self/fdinfo/${raw}`) ?? "";
    const [ino, mount] = ["ino", "mnt_id"].map((name) =>
      info.match(new RegExp(`^${name}:\\s*(\\d+)$`, "m"))?.[1]
    );
    if (ino === undefined || mount === undefined) return undefined;
    const device = readText("/proc/self/mountinfo")
      ?.match(new RegExp(`^${mount} \\d+ (\\d+):(\\d+) `, "m"));
    return device
      ? { dev: asStat(BigInt(device[1]), BigInt(device[2])), ino: BigInt(ino) }
      : undefined;
  } finally {
    closeRaw(raw);
  }
}

/** Device, and the low 32 bits of the inode. */
function boundFile(raw: number): BoundFile | undefined {
  const asked = request.pack({
    header: header(request.size, c.NLM_F_REQUEST),
    sdiag_family: c.AF_UNIX,
    udiag_ino: Number(BigInt.asUintN(32, fileStatus(raw).ino)),
    udiag_show: c.UDIAG_SHOW_VFS,
    // INET_DIAG_NOCOOKIE: the inode is enough.
    udiag_cookie: 0xffff_ffff_ffff_ffffn,
  });
  for (const message of answers(asked) ?? []) return vfsOf(message);
  return undefined;
}

/** A file that a unix socket is bound to: its device as stat(2) gives it, and the low 32 bits of its inode. */
export interface BoundFile {
  dev: bigint;
  ino: bigint;
}

/** A listening socket of any process of the network namespace. */
export interface ListeningSocket {
  /** Its inode: the N of "socket:[N]" under /proc/PID/fd. */
  inode: number;
  /** The address of bind(2): a path stays the same when its file is renamed. */
  address: Address | undefined;
  /** The number of connections that wait for accept(2). */
  queued: number;
  /** The argument of listen(2), as far as net.core.somaxconn allows it: beyond so many the queue is full. */
  backlog: number;
  /** The file of a unix socket. */
  file?: BoundFile;
}

/**
 * The stream listeners of this network namespace, TCP and unix; undefined where the kernel does not list them: a
 * sandbox may refuse AF_NETLINK.
 */
export function listeningSockets(): ListeningSocket[] | undefined {
  const flags = c.NLM_F_REQUEST | c.NLM_F_DUMP;
  const unix = answers(request.pack({
    header: header(request.size, flags),
    sdiag_family: c.AF_UNIX,
    udiag_states: 1 << c.TCP_LISTEN,
    udiag_show: c.UDIAG_SHOW_NAME | c.UDIAG_SHOW_VFS | c.UDIAG_SHOW_RQLEN,
  }));
  const inet = [c.AF_INET, c.AF_INET6].map((sdiag_family) =>
    answers(inet_diag_req_v2.pack({
      header: header(inet_diag_req_v2.size, flags),
      sdiag_family,
      sdiag_protocol: c.IPPROTO_TCP,
      idiag_states: 1 << c.TCP_LISTEN,
    }))
  );
  if (!unix || inet.includes(undefined)) return undefined;
  return [...unix.map(unixListener), ...inet.flatMap((each) => each!.map(inetListener))];
}

function unixListener(message: Uint8Array<ArrayBuffer>): ListeningSocket {
  const name = attributeOf(message, c.UNIX_DIAG_NAME);
  const queue = attributeOf(message, c.UNIX_DIAG_RQLEN);
  const file = vfsOf(message);
  return {
    inode: unix_diag_msg.read(message, "udiag_ino"),
    address: name && {
      transport: "unix",
      // Of a path the terminating zero may be a part, of an abstract name it is not.
      path: new TextDecoder().decode(name[0] === 0 ? name : name.filter((byte) => byte !== 0)),
    },
    queued: queue ? unix_diag_rqlen.read(queue, "udiag_rqueue") : 0,
    backlog: queue ? unix_diag_rqlen.read(queue, "udiag_wqueue") : 0,
    ...file && { file },
  };
}

function inetListener(message: Uint8Array<ArrayBuffer>): ListeningSocket {
  const id = inet_diag_msg.offset("id");
  const port = inet_diag_sockid.read(message, "idiag_sport", id);
  const source = inet_diag_sockid.read(message, "idiag_src", id);
  const { sockaddr_in, sockaddr_in6 } = structs;
  const address = inet_diag_msg.read(message, "idiag_family") === c.AF_INET
    ? sockaddr_in.pack({
      sin_family: c.AF_INET,
      sin_port: port,
      sin_addr: { s_addr: source.slice(0, 4).reduce((sum, byte) => sum * 256 + byte, 0) },
    })
    : sockaddr_in6.pack({ sin6_family: c.AF_INET6, sin6_port: port, sin6_addr: source });
  return {
    inode: inet_diag_msg.read(message, "idiag_inode"),
    address: unpackAddress(address, address.length, c.SOCK_STREAM),
    queued: inet_diag_msg.read(message, "idiag_rqueue"),
    backlog: inet_diag_msg.read(message, "idiag_wqueue"),
  };
}

function header(length: number, flags: number) {
  return { nlmsg_len: length, nlmsg_type: c.SOCK_DIAG_BY_FAMILY, nlmsg_flags: flags };
}

/**
 * The messages that the kernel answers a request with, without their headers; undefined when it refuses. A dump is
 * queued as it is read, the rest when write(2) returns: no read has to wait (net/netlink/af_netlink.c, `netlink_dump`,
 * `netlink_unicast_kernel`).
 */
function answers(asked: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>[] | undefined {
  const netlink = libc().socket(
    c.AF_NETLINK,
    c.SOCK_RAW | c.SOCK_CLOEXEC | c.SOCK_NONBLOCK,
    c.NETLINK_SOCK_DIAG,
  );
  if (netlink < 0) return undefined;
  try {
    if (Number(libc().write(netlink, asked, BigInt(asked.length))) < 0) return undefined;
    const isDump = (nlmsghdr.read(asked, "nlmsg_flags") & c.NLM_F_DUMP) !== 0;
    const messages: Uint8Array<ArrayBuffer>[] = [];
    for (;;) {
      const chunk = new Uint8Array(32768);
      const n = Number(libc().read(netlink, chunk, BigInt(chunk.length)));
      if (n <= 0) return undefined;
      for (let at = 0; at + nlmsghdr.size <= n;) {
        const length = nlmsghdr.read(chunk, "nlmsg_len", at);
        const type = nlmsghdr.read(chunk, "nlmsg_type", at);
        if (type === c.NLMSG_DONE) return messages;
        if (type !== c.SOCK_DIAG_BY_FAMILY || length < nlmsghdr.size) return undefined;
        messages.push(chunk.subarray(at + nlmsghdr.size, Math.min(at + length, n)));
        at += aligned(length);
      }
      if (!isDump) return messages;
    }
  } finally {
    closeRaw(netlink);
  }
}

function vfsOf(message: Uint8Array): BoundFile | undefined {
  const vfs = attributeOf(message, c.UNIX_DIAG_VFS);
  if (!vfs) return undefined;
  const dev = BigInt(unix_diag_vfs.read(vfs, "udiag_vfs_dev"));
  const ino = BigInt(unix_diag_vfs.read(vfs, "udiag_vfs_ino"));
  return { dev: asStat(dev >> 20n, dev & 0xfffffn), ino };
}

/** The value of an attribute of a message about a unix socket. */
function attributeOf(message: Uint8Array, type: number): Uint8Array | undefined {
  for (let at = unix_diag_msg.size; at + nlattr.size <= message.length;) {
    const length = nlattr.read(message, "nla_len", at);
    if (length < nlattr.size) return undefined;
    if (nlattr.read(message, "nla_type", at) === type) {
      return message.subarray(at + nlattr.size, at + length);
    }
    at += aligned(length);
  }
  return undefined;
}

/** NLMSG_ALIGN, NLA_ALIGN. */
function aligned(length: number): number {
  return (length + 3) & ~3;
}

/** A device as stat(2) gives it (gnu_dev_makedev(3)). */
function asStat(major: bigint, minor: bigint): bigint {
  return (major & 0xfffn) << 8n | minor & 0xffn | (minor & ~0xffn) << 12n |
    (major & ~0xfffn) << 32n;
}
