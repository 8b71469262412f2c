/**
 * The file that a unix socket is bound to, as the kernel has it (sock_diag(7)).
 *
 * @module
 */

import { c } from "./abi.ts";
import { closeRaw } from "./fd.ts";
import { fileStatus, isSameFile, openName, readText, statusOf } from "./file.ts";
import { libc } from "./libc.ts";
import { struct } from "./struct.ts";

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
  if (!bound) return undefined;
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
function boundFile(raw: number): { dev: bigint; ino: bigint } | undefined {
  const netlink = libc().socket(
    c.AF_NETLINK,
    c.SOCK_RAW | c.SOCK_CLOEXEC | c.SOCK_NONBLOCK,
    c.NETLINK_SOCK_DIAG,
  );
  if (netlink < 0) return undefined;
  try {
    const asked = request.pack({
      header: {
        nlmsg_len: request.size,
        nlmsg_type: c.SOCK_DIAG_BY_FAMILY,
        nlmsg_flags: c.NLM_F_REQUEST,
      },
      sdiag_family: c.AF_UNIX,
      udiag_ino: Number(BigInt.asUintN(32, fileStatus(raw).ino)),
      udiag_show: c.UDIAG_SHOW_VFS,
      // INET_DIAG_NOCOOKIE: the inode is enough.
      udiag_cookie: 0xffff_ffff_ffff_ffffn,
    });
    const answer = new Uint8Array(1024);
    if (Number(libc().write(netlink, asked, BigInt(asked.length))) < 0) return undefined;
    // The answer is queued when write(2) returns (net/netlink/af_netlink.c, `netlink_unicast_kernel`).
    const n = Number(libc().read(netlink, answer, BigInt(answer.length)));
    if (n < 0 || nlmsghdr.read(answer, "nlmsg_type") !== c.SOCK_DIAG_BY_FAMILY) return undefined;
    return vfsIn(answer.subarray(0, n));
  } finally {
    closeRaw(netlink);
  }
}

function vfsIn(answer: Uint8Array): { dev: bigint; ino: bigint } | undefined {
  let at = nlmsghdr.size + unix_diag_msg.size;
  while (at + nlattr.size <= answer.length) {
    const length = nlattr.read(answer, "nla_len", at);
    if (nlattr.read(answer, "nla_type", at) === c.UNIX_DIAG_VFS) {
      const vfs = at + nlattr.size;
      const dev = BigInt(unix_diag_vfs.read(answer, "udiag_vfs_dev", vfs));
      return {
        dev: asStat(dev >> 20n, dev & 0xfffffn),
        ino: BigInt(unix_diag_vfs.read(answer, "udiag_vfs_ino", vfs)),
      };
    }
    if (length < nlattr.size) return undefined;
    // NLA_ALIGN
    at += (length + 3) & ~3;
  }
  return undefined;
}

/** A device as stat(2) gives it (gnu_dev_makedev(3)). */
function asStat(major: bigint, minor: bigint): bigint {
  return (major & 0xfffn) << 8n | minor & 0xffn | (minor & ~0xffn) << 12n |
    (major & ~0xfffn) << 32n;
}
