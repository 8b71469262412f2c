/**
 * The one file that knows which system this is: layouts, constants and errno numbers, by the headers
 * of glibc and Linux (`bits/socket.h`, `bits/stat.h`, `asm-generic/errno.h`, `linux/eventpoll.h`), and
 * layouts of macOS by those of xnu (`sys/socket.h`, `sys/un.h`, `netinet/in.h`, `sys/event.h`). On
 * macOS no descriptor is passed yet: adopting wants an epoll and /proc, and there is neither.
 *
 * @module
 */

import { bytes, type Fields, type Struct, struct } from "./struct.ts";

/** The systems whose layouts are here. */
export type System = "linux_x86_64" | "linux_aarch64" | "macos_x86_64" | "macos_arm64";

const iovec = struct({ iov_base: "pointer", iov_len: "usize" });

const msghdr = struct({
  msg_name: "pointer",
  msg_namelen: "u32",
  msg_iov: "pointer",
  msg_iovlen: "usize",
  msg_control: "pointer",
  msg_controllen: "usize",
  msg_flags: "i32",
});

const timespec = struct({ tv_sec: "i64", tv_nsec: "i64" });

// The same everywhere.
const rlimit = struct({ rlim_cur: "u64", rlim_max: "u64" });
const pollfd = struct({ fd: "i32", events: "i16", revents: "i16" });
const linger = struct({ l_onoff: "i32", l_linger: "i32" });

/** The head of `struct tcp_info` (linux/tcp.h), which each kernel may lengthen: getsockopt(2) cuts it. */
const tcp_info_head = struct({
  tcpi_state: "u8",
  tcpi_ca_state: "u8",
  tcpi_retransmits: "u8",
  tcpi_probes: "u8",
  tcpi_backoff: "u8",
  tcpi_options: "u8",
  tcpi_wscale: "u8",
  tcpi_flags: "u8",
  tcpi_rto: "u32",
  tcpi_ato: "u32",
  tcpi_snd_mss: "u32",
  tcpi_rcv_mss: "u32",
  tcpi_unacked: "u32",
  tcpi_sacked: "u32",
  tcpi_lost: "u32",
  tcpi_retrans: "u32",
  tcpi_fackets: "u32",
  tcpi_last_data_sent: "u32",
  tcpi_last_ack_sent: "u32",
  tcpi_last_data_recv: "u32",
  tcpi_last_ack_recv: "u32",
  tcpi_pmtu: "u32",
  tcpi_rcv_ssthresh: "u32",
  tcpi_rtt: "u32",
  tcpi_rttvar: "u32",
  tcpi_snd_ssthresh: "u32",
  tcpi_snd_cwnd: "u32",
  tcpi_advmss: "u32",
  tcpi_reordering: "u32",
  tcpi_rcv_rtt: "u32",
  tcpi_rcv_space: "u32",
  tcpi_total_retrans: "u32",
  tcpi_pacing_rate: "u64",
  tcpi_max_pacing_rate: "u64",
  tcpi_bytes_acked: "u64",
  tcpi_bytes_received: "u64",
});

const linux = {
  iovec,
  msghdr,
  mmsghdr: struct({ msg_hdr: msghdr, msg_len: "u32" }),
  cmsghdr: struct({ cmsg_len: "usize", cmsg_level: "i32", cmsg_type: "i32" }),
  sockaddr: struct({ sa_family: "u16", sa_data: bytes(14) }),
  sockaddr_un: struct({ sun_family: "u16", sun_path: bytes(108) }),
  sockaddr_in: struct({
    sin_family: "u16",
    sin_port: "u16be",
    sin_addr: struct({ s_addr: "u32be" }),
    sin_zero: bytes(8),
  }),
  sockaddr_in6: struct({
    sin6_family: "u16",
    sin6_port: "u16be",
    sin6_flowinfo: "u32",
    sin6_addr: bytes(16),
    sin6_scope_id: "u32",
  }),
  sockaddr_storage: struct({ ss_family: "u16", ss_padding: bytes(118), ss_align: "u64" }),
  ucred: struct({ pid: "i32", uid: "u32", gid: "u32" }),
  pollfd,
  rlimit,
  timeval: struct({ tv_sec: "i64", tv_usec: "i64" }),
  timespec,
  itimerspec: struct({ it_interval: timespec, it_value: timespec }),
  linger,
  tcp_info_head,
  /** asm-generic/siginfo.h, the part of SIGCHLD: the union is aligned to 8 bytes. */
  siginfo_child: struct({
    si_signo: "i32",
    si_errno: "i32",
    si_code: "i32",
    pad: "i32",
    si_pid: "i32",
    si_uid: "u32",
    si_status: "i32",
    pad2: "i32",
    rest: "u64",
    rest2: bytes(88),
  }),
  /** bits/types/__sigset_t.h: 1024 bits, in words of 64. */
  sigset: struct({ word0: "u64", words: bytes(120) }),
  /** spawn.h: filled by its functions alone. */
  posix_spawn_file_actions: struct({
    allocated: "i32",
    used: "i32",
    actions: "u64",
    pad: bytes(64),
  }),
  posix_spawnattr: struct({ flags: "i16", pgrp: "i32", sd0: "u64", rest: bytes(320) }),
  flock: struct({ l_type: "i16", l_whence: "i16", l_start: "i64", l_len: "i64", l_pid: "i32" }),
};

const times = { st_atim: timespec, st_mtim: timespec, st_ctim: timespec } as const;

const byArch = {
  x86_64: {
    // EPOLL_PACKED: the kernel keeps the 32-bit layout here, and only here.
    epoll_event: struct({ events: "u32", data: "u64" }, { maxAlign: 1 }),
    stat: struct({
      st_dev: "u64",
      st_ino: "u64",
      st_nlink: "u64",
      st_mode: "u32",
      st_uid: "u32",
      st_gid: "u32",
      pad0: "i32",
      st_rdev: "u64",
      st_size: "i64",
      st_blksize: "i64",
      st_blocks: "i64",
      ...times,
      reserved: bytes(24),
    }),
  },
  aarch64: {
    epoll_event: struct({ events: "u32", data: "u64" }),
    stat: struct({
      st_dev: "u64",
      st_ino: "u64",
      st_mode: "u32",
      st_nlink: "u32",
      st_uid: "u32",
      st_gid: "u32",
      st_rdev: "u64",
      pad1: "u64",
      st_size: "i64",
      st_blksize: "i32",
      pad2: "i32",
      st_blocks: "i64",
      ...times,
      reserved: bytes(8),
    }),
  },
};

const kevent = {
  ident: "u64",
  filter: "i16",
  flags: "u16",
  fflags: "u32",
  data: "i64",
  udata: "u64",
} as const;

const macos = {
  iovec,
  msghdr: struct({
    msg_name: "pointer",
    msg_namelen: "u32",
    msg_iov: "pointer",
    msg_iovlen: "i32",
    msg_control: "pointer",
    msg_controllen: "u32",
    msg_flags: "i32",
  }),
  cmsghdr: struct({ cmsg_len: "u32", cmsg_level: "i32", cmsg_type: "i32" }),
  sockaddr: struct({ sa_len: "u8", sa_family: "u8", sa_data: bytes(14) }),
  sockaddr_un: struct({ sun_len: "u8", sun_family: "u8", sun_path: bytes(104) }),
  sockaddr_in: struct({
    sin_len: "u8",
    sin_family: "u8",
    sin_port: "u16be",
    sin_addr: struct({ s_addr: "u32be" }),
    sin_zero: bytes(8),
  }),
  sockaddr_in6: struct({
    sin6_len: "u8",
    sin6_family: "u8",
    sin6_port: "u16be",
    sin6_flowinfo: "u32",
    sin6_addr: bytes(16),
    sin6_scope_id: "u32",
  }),
  xucred: struct({
    cr_version: "u32",
    cr_uid: "u32",
    cr_ngroups: "i16",
    // gid_t cr_groups[16]
    cr_groups: struct({ first: "u32", others: bytes(60) }),
  }),
  pollfd,
  kevent: struct(kevent, { maxAlign: 4 }),
  kevent64_s: struct({ ...kevent, ext: bytes(16) }),
  rlimit,
  timeval: struct({ tv_sec: "i64", tv_usec: "i32" }),
  timespec,
  linger,
};

/** Every layout of `system`. */
export function structsOf(system: System): Readonly<Record<string, Struct<Fields>>> {
  switch (system) {
    case "linux_x86_64":
      return { ...linux, ...byArch.x86_64 };
    case "linux_aarch64":
      return { ...linux, ...byArch.aarch64 };
    default:
      return macos;
  }
}

// Callers need the fields' types, which the processors share as far as anyone reads them.
type Structs = typeof linux & {
  epoll_event: typeof byArch.x86_64.epoll_event;
  stat: Struct<{
    st_dev: "u64";
    st_ino: "u64";
    st_nlink: "u64";
    st_mode: "u32";
    st_uid: "u32";
    st_gid: "u32";
    st_rdev: "u64";
    st_size: "i64";
  }>;
};

/** The layouts of this machine; on a system without any, `libc()` throws before they matter. */
export const structs: Structs = {
  ...linux,
  ...byArch[Deno.build.arch === "aarch64" ? "aarch64" : "x86_64"],
} as Structs;

/** Whether this file holds the layouts of the machine it runs on. */
export const supported: boolean = Deno.build.os === "linux" &&
  (Deno.build.arch === "x86_64" || Deno.build.arch === "aarch64");

/** Constants of the socket, fcntl and epoll calls; the same on both processors. */
export const c = {
  AF_UNIX: 1,
  AF_INET: 2,
  AF_INET6: 10,
  SOCK_STREAM: 1,
  SOCK_DGRAM: 2,
  SOCK_SEQPACKET: 5,
  SOCK_RAW: 3,
  AF_NETLINK: 16,
  /** linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h */
  NETLINK_SOCK_DIAG: 4,
  NLM_F_REQUEST: 1,
  NLM_F_DUMP: 0x300,
  NLMSG_ERROR: 2,
  NLMSG_DONE: 3,
  SOCK_DIAG_BY_FAMILY: 20,
  UDIAG_SHOW_NAME: 1,
  UDIAG_SHOW_VFS: 2,
  UDIAG_SHOW_RQLEN: 16,
  UNIX_DIAG_NAME: 0,
  UNIX_DIAG_VFS: 1,
  UNIX_DIAG_RQLEN: 4,
  /** net/tcp_states.h: the state of a listening socket, of unix too. */
  TCP_LISTEN: 10,
  SOCK_CLOEXEC: 0x80000,
  SOCK_NONBLOCK: 2048,
  SOL_SOCKET: 1,
  SCM_RIGHTS: 1,
  SCM_CREDENTIALS: 2,
  SO_TYPE: 3,
  SO_ERROR: 4,
  SO_SNDBUF: 7,
  SO_RCVBUF: 8,
  SO_REUSEADDR: 2,
  SO_REUSEPORT: 15,
  SO_PASSCRED: 16,
  SO_PEERCRED: 17,
  SO_ACCEPTCONN: 30,
  SO_DOMAIN: 39,
  SO_PROTOCOL: 38,
  SO_PEERGROUPS: 59,
  SO_RCVTIMEO: 20,
  SO_SNDTIMEO: 21,
  SO_KEEPALIVE: 9,
  IPPROTO_IP: 0,
  IPPROTO_TCP: 6,
  IPPROTO_IPV6: 41,
  IP_MULTICAST_LOOP: 34,
  IPV6_MULTICAST_LOOP: 19,
  IPV6_V6ONLY: 26,
  TCP_NODELAY: 1,
  TCP_INFO: 11,
  TCP_DEFER_ACCEPT: 9,
  MSG_PEEK: 2,
  MSG_CTRUNC: 8,
  MSG_TRUNC: 32,
  MSG_DONTWAIT: 64,
  MSG_EOR: 128,
  MSG_WAITALL: 256,
  MSG_NOSIGNAL: 0x4000,
  MSG_CMSG_CLOEXEC: 0x40000000,
  O_RDONLY: 0,
  O_WRONLY: 1,
  O_RDWR: 2,
  O_CREAT: 64,
  O_EXCL: 128,
  O_NONBLOCK: 2048,
  O_CLOEXEC: 0x80000,
  F_DUPFD: 0,
  F_GETFD: 1,
  F_SETFD: 2,
  F_GETFL: 3,
  F_SETFL: 4,
  F_DUPFD_CLOEXEC: 1030,
  FD_CLOEXEC: 1,
  FIONBIO: 0x5421,
  FIONREAD: 0x541b,
  TIOCOUTQ: 0x5411,
  RLIMIT_NOFILE: 7,
  SHUT_RD: 0,
  SHUT_WR: 1,
  SHUT_RDWR: 2,
  POLLIN: 1,
  POLLOUT: 4,
  POLLERR: 8,
  POLLHUP: 16,
  POLLNVAL: 32,
  POLLRDHUP: 0x2000,
  EPOLLIN: 1,
  EPOLLOUT: 4,
  EPOLLERR: 8,
  EPOLLHUP: 16,
  EPOLLRDHUP: 0x2000,
  EPOLLET: 0x80000000,
  EPOLLONESHOT: 0x40000000,
  EPOLLEXCLUSIVE: 0x10000000,
  EPOLL_CTL_ADD: 1,
  EPOLL_CTL_DEL: 2,
  EPOLL_CTL_MOD: 3,
  EPOLL_CLOEXEC: 0x80000,
  EFD_CLOEXEC: 0x80000,
  EFD_NONBLOCK: 2048,
  EFD_SEMAPHORE: 1,
  TFD_CLOEXEC: 0x80000,
  TFD_NONBLOCK: 2048,
  CLOCK_MONOTONIC: 1,
  S_IFMT: 0o170000,
  S_IFSOCK: 0o140000,
  DT_UNKNOWN: 0,
  DT_LNK: 10,
  X_OK: 1,
  S_IFREG: 0o100000,
  S_IFIFO: 0o010000,
  S_IFDIR: 0o040000,
  S_IFCHR: 0o020000,
  S_IFBLK: 0o060000,
  SO_COOKIE: 57,
  SO_NETNS_COOKIE: 71,
  SO_LINGER: 13,
  O_PATH: 0x200000,
  O_APPEND: 0x400,
  // asm/fcntl.h: arm64 has its own number.
  O_NOFOLLOW: Deno.build.arch === "aarch64" ? 0x8000 : 0x20000,
  AT_FDCWD: -100,
  SEEK_SET: 0,
  SEEK_CUR: 1,
  SEEK_END: 2,
  MFD_CLOEXEC: 1,
  WNOHANG: 1,
  WEXITED: 4,
  WNOWAIT: 0x1000000,
  P_ALL: 0,
  PR_SET_CHILD_SUBREAPER: 36,
  POSIX_SPAWN_SETPGROUP: 2,
  POSIX_SPAWN_SETSIGDEF: 4,
  SIGPIPE: 13,
  SIGKILL: 9,
  LOCK_EX: 2,
  LOCK_NB: 4,
  /** net/scm.h: the most descriptors one message carries. */
  SCM_MAX_FD: 253,
  SCM_PIDFD: 4,
  /** limits.h */
  PATH_MAX: 4096,
  /** netinet/in.h, in host order */
  INADDR_LOOPBACK: 0x7f000001,
} as const;

/** errno numbers by name. */
export const errnos: Readonly<Record<string, number>> = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  ENOEXEC: 8,
  EBADF: 9,
  ECHILD: 10,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  EFBIG: 27,
  ENOSPC: 28,
  ESPIPE: 29,
  EROFS: 30,
  EMLINK: 31,
  EPIPE: 32,
  ERANGE: 34,
  EDEADLK: 35,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  EPROTO: 71,
  EOVERFLOW: 75,
  EILSEQ: 84,
  ENOTSOCK: 88,
  EDESTADDRREQ: 89,
  EMSGSIZE: 90,
  EPROTOTYPE: 91,
  ENOPROTOOPT: 92,
  EPROTONOSUPPORT: 93,
  EOPNOTSUPP: 95,
  EAFNOSUPPORT: 97,
  EADDRINUSE: 98,
  EADDRNOTAVAIL: 99,
  ENETDOWN: 100,
  ENETUNREACH: 101,
  ENETRESET: 102,
  ECONNABORTED: 103,
  ECONNRESET: 104,
  ENOBUFS: 105,
  EISCONN: 106,
  ENOTCONN: 107,
  ESHUTDOWN: 108,
  ETOOMANYREFS: 109,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  EHOSTDOWN: 112,
  EHOSTUNREACH: 113,
  EALREADY: 114,
  EINPROGRESS: 115,
  ESTALE: 116,
  EDQUOT: 122,
  ECANCELED: 125,
};

/** `CMSG_ALIGN`, `CMSG_LEN` and `CMSG_SPACE` for `size` data bytes (bits/socket.h, sys/socket.h). */
export interface ControlSizes {
  align(size: number): number;
  length(size: number): number;
  space(size: number): number;
}

/** The control message macros of `system`. */
export function controlSizesOf(system: System): ControlSizes {
  const [unit, head] = system.startsWith("linux") ? [8, linux.cmsghdr] : [4, macos.cmsghdr];
  const align = (size: number) => Math.ceil(size / unit) * unit;
  return {
    align,
    length: (size) => align(head.size) + size,
    space: (size) => align(head.size) + align(size),
  };
}

/** The control message macros of this machine. */
export const cmsg: ControlSizes = controlSizesOf("linux_x86_64");

/** `_STAT_VER` of bits/stat.h, for `__fxstat`. */
export const statVersion: number = Deno.build.arch === "x86_64" ? 1 : 0;

/** Where the C library is found when only one exact path may be opened. */
export const libcPaths: readonly string[] = [
  `/lib/${Deno.build.arch}-linux-gnu/libc.so.6`,
  `/usr/lib/${Deno.build.arch}-linux-gnu/libc.so.6`,
  "/lib64/libc.so.6",
  "/usr/lib64/libc.so.6",
  "/lib/libc.so.6",
  "/usr/lib/libc.so.6",
];
