/**
 * The C library. It is opened at the first call, and each function is looked up at its first call: importing needs no
 * permission, and a function that is not called is not compiled.
 *
 * Addresses are `usize` numbers and buffers are `buffer`, never `pointer`: permission for one exact
 * library path does not include `Deno.UnsafePointer`.
 *
 * @module
 */

import { c, libcPaths } from "./abi.ts";
import { noDescriptors } from "./system.ts";

const symbols = {
  // int socket(int domain, int type, int protocol);
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  // int socketpair(int domain, int type, int protocol, int sv[2]);
  socketpair: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  // int bind(int sockfd, const struct sockaddr *addr, socklen_t addrlen);
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  // int listen(int sockfd, int backlog);
  listen: { parameters: ["i32", "i32"], result: "i32" },
  // int accept4(int sockfd, struct sockaddr *addr, socklen_t *addrlen, int flags);
  accept4: { parameters: ["i32", "buffer", "buffer", "i32"], result: "i32" },
  // int connect(int sockfd, const struct sockaddr *addr, socklen_t addrlen);
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  // int getsockname(int sockfd, struct sockaddr *addr, socklen_t *addrlen);
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  // int getpeername(int sockfd, struct sockaddr *addr, socklen_t *addrlen);
  getpeername: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  // int getsockopt(int sockfd, int level, int optname, void *optval, socklen_t *optlen);
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  // int setsockopt(int sockfd, int level, int optname, const void *optval, socklen_t optlen);
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  // int shutdown(int sockfd, int how);
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  // ssize_t sendmsg(int sockfd, const struct msghdr *msg, int flags);
  sendmsg: { parameters: ["i32", "buffer", "i32"], result: "isize" },
  // ssize_t recvmsg(int sockfd, struct msghdr *msg, int flags);
  recvmsg: { parameters: ["i32", "buffer", "i32"], result: "isize" },

  // uid_t geteuid(void);
  geteuid: { parameters: [], result: "u32" },
  // int kill(pid_t pid, int sig);
  kill: { parameters: ["i32", "i32"], result: "i32" },
  // pid_t waitpid(pid_t pid, int *wstatus, int options);
  waitpid: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  // int waitid(idtype_t idtype, id_t id, siginfo_t *infop, int options);
  waitid: { parameters: ["i32", "u32", "buffer", "i32"], result: "i32" },
  // int prctl(int option, ... /* unsigned long arg2, arg3, arg4, arg5 */);
  prctl: { parameters: ["i32", "usize", "usize", "usize", "usize"], result: "i32" },
  // int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *file_actions,
  //                 const posix_spawnattr_t *attrp, char *const argv[], char *const envp[]);
  posix_spawn: {
    parameters: ["buffer", "buffer", "buffer", "buffer", "buffer", "buffer"],
    result: "i32",
  },
  // int posix_spawn_file_actions_init(posix_spawn_file_actions_t *file_actions);
  posix_spawn_file_actions_init: { parameters: ["buffer"], result: "i32" },
  // int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t *file_actions, int fildes, int newfildes);
  posix_spawn_file_actions_adddup2: { parameters: ["buffer", "i32", "i32"], result: "i32" },
  // int posix_spawn_file_actions_destroy(posix_spawn_file_actions_t *file_actions);
  posix_spawn_file_actions_destroy: { parameters: ["buffer"], result: "i32" },
  // int posix_spawnattr_init(posix_spawnattr_t *attr);
  posix_spawnattr_init: { parameters: ["buffer"], result: "i32" },
  // int posix_spawnattr_setflags(posix_spawnattr_t *attr, short flags);
  posix_spawnattr_setflags: { parameters: ["buffer", "i16"], result: "i32" },
  // int posix_spawnattr_setsigdefault(posix_spawnattr_t *attr, const sigset_t *sigdefault);
  posix_spawnattr_setsigdefault: { parameters: ["buffer", "buffer"], result: "i32" },
  // int posix_spawnattr_destroy(posix_spawnattr_t *attr);
  posix_spawnattr_destroy: { parameters: ["buffer"], result: "i32" },
  // int execv(const char *path, char *const argv[]);
  execv: { parameters: ["buffer", "buffer"], result: "i32" },
  // int close(int fd);
  close: { parameters: ["i32"], result: "i32" },
  // int close_range(unsigned int first, unsigned int last, int flags);    since glibc 2.34
  close_range: { parameters: ["u32", "u32", "i32"], result: "i32", optional: true },
  // int fcntl(int fd, int cmd, ... /* int arg */);
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  // the same, on a thread of Deno's pool
  fcntl_elsewhere: {
    name: "fcntl",
    parameters: ["i32", "i32", "i32"],
    result: "i32",
    nonblocking: true,
  },
  // int ioctl(int fd, unsigned long request, ... /* int *arg */);
  ioctl: { parameters: ["i32", "usize", "buffer"], result: "i32" },
  // int dup3(int oldfd, int newfd, int flags);
  dup3: { parameters: ["i32", "i32", "i32"], result: "i32" },
  // int open(const char *pathname, int flags, ... /* mode_t mode */);
  open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
  // ssize_t read(int fd, void *buf, size_t count);
  read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  // ssize_t write(int fd, const void *buf, size_t count);
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  // ssize_t pwrite(int fd, const void *buf, size_t count, off_t offset);
  pwrite: { parameters: ["i32", "buffer", "usize", "i64"], result: "isize" },
  // int memfd_create(const char *name, unsigned int flags);    since glibc 2.27
  memfd_create: { parameters: ["buffer", "u32"], result: "i32", optional: true },
  // off_t lseek(int fd, off_t offset, int whence);
  lseek: { parameters: ["i32", "i64", "i32"], result: "i64" },
  // int fchdir(int fd);
  fchdir: { parameters: ["i32"], result: "i32" },
  // int access(const char *pathname, int mode);
  access: { parameters: ["buffer", "i32"], result: "i32" },
  // int flock(int fd, int operation);
  flock: { parameters: ["i32", "i32"], result: "i32" },
  // int fchmod(int fd, mode_t mode);
  fchmod: { parameters: ["i32", "u32"], result: "i32" },
  // int chmod(const char *pathname, mode_t mode);
  chmod: { parameters: ["buffer", "u32"], result: "i32" },
  // int fstat(int fd, struct stat *statbuf);    a function since glibc 2.33
  fstat: { parameters: ["i32", "buffer"], result: "i32", optional: true },
  // int __fxstat(int version, int fd, struct stat *statbuf);    what fstat was before
  __fxstat: { parameters: ["i32", "i32", "buffer"], result: "i32", optional: true },
  // int fstatat(int dirfd, const char *pathname, struct stat *statbuf, int flags);    since glibc 2.33
  fstatat: { parameters: ["i32", "buffer", "buffer", "i32"], result: "i32", optional: true },
  // int __fxstatat(int version, int dirfd, const char *pathname, struct stat *statbuf, int flags);
  __fxstatat: {
    parameters: ["i32", "i32", "buffer", "buffer", "i32"],
    result: "i32",
    optional: true,
  },
  // ssize_t readlink(const char *pathname, char *buf, size_t bufsiz);
  readlink: { parameters: ["buffer", "buffer", "usize"], result: "isize" },
  // ssize_t getdirentries(int fd, char *buf, size_t nbytes, off_t *basep);
  getdirentries: { parameters: ["i32", "buffer", "usize", "buffer"], result: "isize" },
  // int link(const char *oldpath, const char *newpath);
  link: { parameters: ["buffer", "buffer"], result: "i32" },
  // int unlink(const char *pathname);
  unlink: { parameters: ["buffer"], result: "i32" },
  // int rename(const char *oldpath, const char *newpath);
  rename: { parameters: ["buffer", "buffer"], result: "i32" },

  // int epoll_create1(int flags);
  epoll_create1: { parameters: ["i32"], result: "i32" },
  // int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);
  epoll_ctl: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  // int epoll_wait(int epfd, struct epoll_event *events, int maxevents, int timeout);
  epoll_wait: { parameters: ["i32", "usize", "i32", "i32"], result: "i32", nonblocking: true },
  // the same, for what there is without waiting
  epoll_wait_now: {
    name: "epoll_wait",
    parameters: ["i32", "buffer", "i32", "i32"],
    result: "i32",
  },
  // int poll(struct pollfd *fds, nfds_t nfds, int timeout);
  poll: { parameters: ["buffer", "usize", "i32"], result: "i32" },
  // int sched_yield(void);
  sched_yield: { parameters: [], result: "i32" },
  // the same, on a thread of Deno's pool
  sched_yield_elsewhere: {
    name: "sched_yield",
    parameters: [],
    result: "i32",
    nonblocking: true,
  },
  // int eventfd(unsigned int initval, int flags);
  eventfd: { parameters: ["u32", "i32"], result: "i32" },
  // int timerfd_create(int clockid, int flags);
  timerfd_create: { parameters: ["i32", "i32"], result: "i32" },
  // int timerfd_settime(int fd, int flags, const struct itimerspec *new_value, struct itimerspec *old_value);
  timerfd_settime: { parameters: ["i32", "i32", "buffer", "buffer"], result: "i32" },

  // void *malloc(size_t size);
  malloc: { parameters: ["usize"], result: "usize" },
  // void *memcpy(void *dest, const void *src, size_t n);
  memcpy: { parameters: ["buffer", "usize", "usize"], result: "usize" },
  // void *memmove(void *dest, const void *src, size_t n);    of nothing: gives dest
  memmove: { parameters: ["buffer", "buffer", "usize"], result: "usize" },
  // char *getenv(const char *name);
  getenv: { parameters: ["buffer"], result: "usize" },
  // int setenv(const char *name, const char *value, int overwrite);
  setenv: { parameters: ["buffer", "buffer", "i32"], result: "i32" },
  // int unsetenv(const char *name);
  unsetenv: { parameters: ["buffer"], result: "i32" },
  // size_t strlen(const char *s);
  strlen: { parameters: ["usize"], result: "usize" },
  // int *__errno_location(void);
  __errno_location: { parameters: [], result: "usize" },
  // int __xpg_strerror_r(int errnum, char *buf, size_t buflen);
  __xpg_strerror_r: { parameters: ["i32", "buffer", "usize"], result: "i32" },
} as const;

/** The functions of libc that this library calls. */
export type Libc = Deno.DynamicLibrary<typeof symbols>["symbols"];

type Name = keyof typeof symbols;
type Definition = Deno.ForeignFunction;

let opened: Libc | undefined;

/**
 * The C library; opens it at the first call.
 *
 * @throws {Deno.errors.NotCapable} Without permission for ffi.
 * @throws {Deno.errors.NotSupported} On a system whose layouts `abi.ts` does not hold.
 */
export function libc(): Libc {
  return opened ??= open();
}

/** The address of the first byte of `bytes`; it does not move while the buffer lives. */
export function addressOf(bytes: Uint8Array<ArrayBuffer>): bigint {
  return BigInt(libc().memmove(bytes, bytes, 0n));
}

/** Converts a path to a C string. */
export function cString(path: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${path}\0`);
}

/**
 * Sets whether a call on another thread keeps the process running. Deno has no public API for that; its core has one in every
 * 2.x. Where it is gone, the call does.
 */
export function setKeepAlive(call: Promise<unknown>, alive: boolean): void {
  // deno-lint-ignore no-explicit-any -- not in Deno's types
  const core = (Deno as any)[(Deno as any).internal]?.core;
  if (alive) core?.refOpPromise?.(call);
  else core?.unrefOpPromise?.(call);
}

/** A `char *const []`: C strings and the pointers to them, which end with a null. */
export class StringArray {
  readonly #text: Uint8Array<ArrayBuffer>;
  /** The pointers, which are valid while this object lives. */
  readonly pointers: Uint8Array<ArrayBuffer>;

  /** @param strings Their bytes, without the NUL at the end. */
  constructor(strings: Uint8Array[]) {
    this.#text = new Uint8Array(strings.reduce((sum, { length }) => sum + length + 1, 0));
    const pointers = new BigUint64Array(strings.length + 1);
    const base = addressOf(this.#text);
    let at = 0;
    strings.forEach((string, i) => {
      this.#text.set(string, at);
      pointers[i] = base + BigInt(at);
      at += string.length + 1;
    });
    this.pointers = new Uint8Array(pointers.buffer);
  }
}

function open(): Libc {
  const unsupported = noDescriptors();
  if (unsupported) throw unsupported;
  let failure: unknown;
  for (const name of libraryNames()) {
    try {
      const functions = onDemand(name);
      warm(functions);
      void growTable(functions);
      return functions;
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}

/**
 * The functions that a start calls, in groups of one task. A group is looked up at once, and Deno compiles nothing for it:
 * each function would take 0.15 ms on the way to the first answer.
 */
const groups: Name[][] = [
  [
    "close",
    "memcpy",
    "__errno_location",
    "__xpg_strerror_r",
    "fcntl",
    "fcntl_elsewhere",
    "dup3",
    "poll",
  ],
  ["open", "read", "lseek", "fstat", "fstatat", "readlink", "access"],
  ["flock", "fchmod", "chmod", "link", "unlink"],
  ["socket", "bind", "listen", "connect", "getsockname", "getsockopt"],
  ["epoll_create1", "epoll_ctl", "epoll_wait", "malloc", "eventfd"],
  ["timerfd_create", "timerfd_settime"],
  ["getenv", "strlen", "unsetenv", "geteuid"],
];

/** The functions of a library, each looked up when it or another one of its group is first asked for. */
function onDemand(name: string): Libc {
  const functions = {};
  const lookUp = (group: readonly Name[], isCompiled: boolean) => {
    const definitions = group.map((symbol): [Name, Definition] => [symbol, symbols[symbol]]);
    const wanted = isCompiled ? definitions : definitions.map(uncompiled);
    const found = Deno.dlopen(name, Object.fromEntries(wanted)).symbols;
    for (const [symbol, { nonblocking, parameters }] of definitions) {
      const call = found[symbol] as Call | null;
      const value = isCompiled || nonblocking || !call ? call : padded(call, parameters.length);
      Object.defineProperty(functions, symbol, { value });
    }
  };
  const mayCompile = !fastCallsCrash();
  for (const symbol of Object.keys(symbols) as Name[]) {
    const group = groups.find((names) => names.includes(symbol));
    const get = () => {
      lookUp(group ?? [symbol], mayCompile && !group);
      return functions[symbol as keyof typeof functions];
    };
    Object.defineProperty(functions, symbol, { configurable: true, get });
  }
  return functions as Libc;
}

/**
 * The definition of a function for which Deno compiles nothing: 0.03 ms in place of 0.1 ms, and 0.2 microseconds more for
 * each call. It compiles none that has a struct among its parameters (ext/ffi, `turbocall::is_compatible`). C functions do
 * not look at the registers of further arguments.
 */
function uncompiled([symbol, definition]: [Name, Definition]): [Name, Definition] {
  if (definition.nonblocking) return [symbol, definition];
  return [symbol, { ...definition, parameters: [...definition.parameters, { struct: ["u8"] }] }];
}

const padding = new Uint8Array(1);

type Call = (...args: unknown[]) => unknown;

/** Calls a function of `uncompiled`: by its number of parameters, for rest parameters would make an array a call. */
function padded(call: Call, parameters: number): Call {
  switch (parameters) {
    case 0:
      return () => call(padding);
    case 1:
      return (a) => call(a, padding);
    case 2:
      return (a, b) => call(a, b, padding);
    case 3:
      return (a, b, c) => call(a, b, c, padding);
    case 4:
      return (a, b, c, d) => call(a, b, c, d, padding);
    default:
      return (a, b, c, d, e) => call(a, b, c, d, e, padding);
  }
}

/** Has the descriptor table grow, on another thread. */
async function growTable({ fcntl_elsewhere, close }: Libc): Promise<void> {
  for (const size of spaciousTables) {
    const grown = fcntl_elsewhere(0, c.F_DUPFD_CLOEXEC, size - 1);
    // A preload module would have the program wait for it.
    setKeepAlive(grown, false);
    const raw = await grown;
    if (raw >= 0) return void close(raw);
  }
}

/**
 * The size that the descriptor table gets in advance. When it grows in a process with threads, the kernel waits until
 * no thread uses the old table (fs/file.c, `expand_fdtable`): some 12 ms at 256, at 512, and so on. So it grows once,
 * on a thread that is idle, by using a high number; if that is above the limit of open descriptors, the next smaller
 * size is tried.
 */
const spaciousTables = [4096, 2048, 1024, 512];

/** V8 of Deno 2.0 and 2.1 aborts the process now and then when it optimizes a loop of fast calls. */
function fastCallsCrash(): boolean {
  return /^2\.[01]\./.test(Deno.version.deno);
}

/**
 * "libc.so.6" where any library may be opened. Where only some paths may (`--allow-ffi=PATH`), or some
 * may not (`--deny-ffi=PATH`), Deno takes that name for a file in the working directory: the usual
 * places that are allowed, then. Where none is, Deno prompts at a terminal, once.
 */
function libraryNames(): string[] {
  if (anyAllowed()) return [soname];
  const allowed = libcPaths.filter((path) =>
    Deno.permissions.querySync({ name: "ffi", path }).state === "granted"
  );
  if (allowed.length > 0) return allowed;
  // Asked for by name, it would be granted as a file in the working directory.
  Deno.permissions.requestSync({ name: "ffi" });
  if (anyAllowed()) return [soname];
  throw new Deno.errors.NotCapable(
    "Requires ffi access to the C library, run again with --allow-ffi or with its exact path, " +
      `such as --allow-ffi=${libcPaths[0]}`,
  );
}

const soname = "libc.so.6";

function anyAllowed(): boolean {
  const { state, partial } = Deno.permissions.querySync({ name: "ffi" });
  return state === "granted" && !partial;
}

/**
 * A call's first runs may load or compile something of V8's, which itself changes errno between a
 * failed call and its reading: seen once in 300 processes, at the eighth call. So the first ones fail
 * on purpose. (Not more often than this: a loop that V8 sets out to optimize made Deno 2.0.6 crash
 * when the process ended within milliseconds.)
 */
function warm(loaded: Libc): void {
  const scratch = new Uint8Array(4);
  for (let i = 0; i < 32; i++) {
    loaded.close(-1);
    loaded.memcpy(scratch, loaded.__errno_location(), 4n);
  }
}
