/**
 * What a generation has open for its service: listeners, datagram sockets and files, inherited or new.
 * The next generation gets all of it.
 *
 * @module
 */

import { dup, Fd } from "../ffi/fd.ts";
import { fileStatus, pathStatus, setMode } from "../ffi/file.ts";
import { isRunning } from "../ffi/proc.ts";
import { type Address, formatAddress, formatPath } from "../ffi/sockaddr.ts";
import { isBound, localAddress } from "../ffi/socket.ts";
import { pause } from "../ffi/time.ts";
import { fdFile, fdListener, fdPacketConn, type TlsOptions } from "./adopt.ts";
import { capture, keep } from "./capture.ts";
import { fileDescriptor } from "./descriptor.ts";
import { DisposableStack } from "./disposable_stack.ts";
import { census, Clients, clientsOf, countConnections, finish, hangUpOnTold } from "./drain.ts";
import type { OfferedItem, ReportedSocket } from "./frame.ts";
import { Gate } from "./gate.ts";
import { serveHttp, type ServeHttpOptions, servingOf } from "./http.ts";
import { type Inheritance, keyOf, type Place, type TcpPlace } from "./inheritance.ts";
import { listen, UnixListener } from "./listener.ts";
import type { HttpHandler, Serving } from "./serving.ts";

/** A native object on a listener. */
interface Listening<T> {
  object: T;
  /** Tells the program where it listens; when that throws, nothing listens. */
  announce?(): void;
  /** How to close the object. */
  close(): void;
  /** What leaving has to know, if it answers HTTP. */
  serving?: Serving;
}

/** How long leaving may take, in milliseconds. */
export interface LeaveOptions {
  /** For the clients of listeners. */
  deadline: number;
  /** For the clients of HTTP to move to another process. */
  httpDeadline: number;
  /** For what is under way then; after that it is cut. */
  forceLimit: number;
  /** Makes the deadlines now, when it is aborted. */
  hurry: AbortSignal;
  /** Whether WebSockets are being closed. */
  isClosing: () => boolean;
}

/** A socket or file that the next generation is to have. */
interface Resource {
  item: OfferedItem;
  fd: Fd;
  gate?: Gate;
  serving?: Serving;
  /** What the kernel says that it is bound to. */
  address?: Address;
  /** Who removes its path, if it has one. */
  unix?: UnixListener;
  close(): void;
}

/**
 * What a generation asks for, and has open. {@linkcode Resources} stand on descriptors; a system that passes
 * none has others.
 */
export type AnyResources = Pick<Resources, keyof Resources>;

/** Everything that one generation has open; nothing is accepted before `open()`. */
export class Resources {
  readonly #inheritance: Inheritance;
  readonly #isRecent: () => boolean;
  readonly #all = new Set<Resource>();
  #isOpen = false;
  #hasLeft = false;
  /** Who was connected at the moment in which it stopped accepting. */
  #clients: Promise<Map<Resource, Clients>> | undefined;
  /** The same, as far as they were found. */
  #found: Clients[] = [];

  /**
   * Looks for what is asked for in `inheritance` first.
   *
   * @param isRecent Whether the generation before was ended just now: its addresses may take a moment
   * to be free.
   */
  constructor(inheritance: Inheritance, isRecent: () => boolean) {
    this.#inheritance = inheritance;
    this.#isRecent = isRecent;
  }

  /** Makes an HTTP server on the listener at `place`, inherited or new. */
  http(
    place: Place,
    { onListen, ...options }: ServeHttpOptions,
    handler: HttpHandler,
  ): Deno.HttpServer {
    return this.#listener(place, (fd) => {
      const server = serveHttp(fd, options, handler);
      return {
        object: server,
        serving: servingOf(server),
        announce: () => onListen?.(server.addr),
        close: () => void server.shutdown(),
      };
    });
  }

  /** Makes a native listener, of TLS where that is asked for, on the one at `place`, inherited or new. */
  listener(place: Place): Deno.Listener;
  listener(place: TcpPlace, tls: TlsOptions): Deno.TlsListener;
  listener(place: Place, tls?: TlsOptions): Deno.Listener {
    return this.#listener(place, (fd) => {
      const listener = tls ? fdListener(fd, tls) : fdListener(fd);
      return { object: listener, close: () => listener.close() };
    });
  }

  /** Makes a native object on the listener at `place`, inherited or new. */
  #listener<T extends object>(place: Place, make: (fd: Fd) => Listening<T>): T {
    return this.#claim("listener", place, bindListener, (bound) => {
      using used = bound.dup();
      const { object, serving, announce, close } = make(used);
      return this.#add(object, bound, { announce, close }, () => {
        const key = keyOf(place);
        if (!("path" in place)) return { item: { kind: "listener", key }, serving };
        const { path } = place;
        Object.assign((object as { addr?: Deno.Addr }).addr ?? {}, { path });
        const unix = new UnixListener(bound.dup(), path);
        return { item: { kind: "listener", key, path }, serving, unix };
      });
    });
  }

  /** Makes a native object on the datagram socket at `place`, inherited or new. */
  datagram(place: TcpPlace): Deno.DatagramConn {
    return this.#claim("datagram", place, bindUdp, (bound) => {
      using used = bound.dup();
      const socket = fdPacketConn(used);
      const item = { kind: "datagram", key: keyOf(place) } as const;
      return this.#add(socket, bound, { close: () => socket.close() }, () => ({ item }));
    });
  }

  /** Makes a native file of the one that is open at `path`, inherited or new. */
  file(path: string, options: Deno.OpenOptions): Deno.FsFile {
    using unfinished = new DisposableStack();
    const file = unfinished.use(this.#inheritedFile(path) ?? Deno.openSync(path, options));
    const fd = unfinished.use(fileDescriptor(file));
    const before = [...this.#all].find(({ item }) => item.kind === "file" && item.key === path);
    if (before) this.#drop(before);
    const resource = { item: { kind: "file", key: path }, fd, close: () => {} } as const;
    this.#all.add(resource);
    whenClosed(file, () => this.#drop(resource));
    unfinished.move();
    return file;
  }

  /** The file of the generation before, unless another one is at its path by now: a log was rotated. */
  #inheritedFile(path: string): Deno.FsFile | undefined {
    using fd = this.#inheritance.take("file", path)?.fd;
    if (!fd) return undefined;
    const now = pathStatus(path);
    const { dev, ino } = fileStatus(fd.raw);
    return now && (now.dev !== dev || now.ino !== ino) ? undefined : fdFile(fd);
  }

  /** Has `make` make something of a socket that was inherited, which stays so if that fails, or is new. */
  #claim<P extends Place, T>(
    kind: "listener" | "datagram",
    place: P,
    bind: (place: P) => Fd,
    make: (bound: Fd) => T,
  ): T {
    if (this.#hasLeft) {
      throw new TypeError("Cannot listen: this generation has left, or is leaving");
    }
    using claimed = new DisposableStack();
    const inherited = this.#inheritance.takeBound(kind, place);
    if (inherited) claimed.defer(() => this.#inheritance.putBack(inherited));
    const bound = inherited?.fd ?? this.#bind(place, bind);
    if (!inherited) claimed.defer(() => unbind(bound, place));
    else if ("path" in place && place.mode !== undefined) setMode(place.path, place.mode);
    const made = make(bound);
    claimed.move();
    bound[Symbol.dispose]();
    return made;
  }

  /** Adds what is on `bound`, which stays the caller's; closes the object if it cannot. */
  #add<T extends object>(
    object: T,
    bound: Fd,
    { announce, close }: Pick<Listening<T>, "announce" | "close">,
    describe: () => Pick<Resource, "item" | "serving" | "unix">,
  ): T {
    using unfinished = new DisposableStack();
    unfinished.defer(close);
    const fd = unfinished.use(bound.dup());
    const gate = unfinished.use(new Gate(object, fd));
    // A server lets go of its socket a turn after it is closed.
    unfinished.defer(() => gate.shut());
    if (!this.#isOpen) gate.shut();
    const address = localAddress(fd.raw);
    const resource = { ...describe(), fd, gate, address, close };
    this.#all.add(resource);
    unfinished.defer(() => this.#all.delete(resource));
    unfinished.defer(() => {
      resource.unix?.keepPath();
      resource.unix?.[Symbol.dispose]();
    });
    announce?.();
    whenClosed(object, () => this.#dropClosed());
    unfinished.move();
    return object;
  }

  /** Binds anew; what a predecessor that was killed has left behind may take a moment to go. */
  #bind<P extends Place>(place: P, bind: (place: P) => Fd): Fd {
    const end = performance.now() + bindPatience;
    for (;;) {
      try {
        return bind(place);
      } catch (error) {
        if (!(error instanceof Deno.errors.AddrInUse)) throw error;
        if (this.#isRecent() && performance.now() < end) sleep(10);
        else throw this.#inUse(place, error);
      }
    }
  }

  /** An error that says so when it is what was inherited that is in the way. */
  #inUse(place: Place, error: Error): Error {
    const beside = this.#inheritance.boundBeside(place);
    if (!beside) return error;
    const where = `${(place as TcpPlace).hostname ?? "0.0.0.0"}:${(place as TcpPlace).port}`;
    return new Deno.errors.AddrInUse(
      `Cannot listen on ${where}: the generation before listens on ${formatAddress(beside)}, ` +
        "which covers some of it; ask for that, or stop the service before this change",
    );
  }

  /** What there is to hand over; the descriptors stay here. */
  offered(): { item: OfferedItem; fd: Fd }[] {
    this.#dropClosed();
    return [...this.#all].map(({ item, fd }) => {
      const donor = fd.donor !== undefined && isRunning(fd.donor) ? fd.donor : undefined;
      return { item: { ...item, donor }, fd };
    });
  }

  /** Lets go of the sockets whose objects their owner has closed: nobody is to be connected to them. */
  #dropClosed(): void {
    for (const resource of this.#all) if (resource.gate?.closed) this.#drop(resource);
  }

  #drop(resource: Resource): void {
    this.#all.delete(resource);
    resource.fd[Symbol.dispose]();
    resource.gate?.[Symbol.dispose]();
    // The next generation may have it, and its path.
    resource.unix?.leave();
  }

  /** Accepts, for the first time or again. */
  open(): void {
    this.#isOpen = true;
    this.#clients = undefined;
    this.#found = [];
    for (const { gate, serving } of this.#all) {
      serving?.stay();
      gate?.open();
    }
  }

  /** Takes note of the clients from here on: they may soon have to leave. */
  watch(): void {
    for (const { serving } of this.#all) serving?.watch();
  }

  /** Stops accepting, in a way that can be undone. */
  shut(): void {
    this.watch();
    this.#isOpen = false;
    const each = new DisposableStack();
    for (const { gate, serving } of this.#all) {
      serving?.leave();
      if (gate) each.defer(() => gate.shut());
    }
    try {
      // A gate that fails does not keep the others open.
      each[Symbol.dispose]();
    } finally {
      if (!this.#clients) {
        this.#clients = this.#findClients();
        // A failure is thrown where they are waited for.
        this.#hangUpOnTold(this.#clients).catch(() => {});
      }
    }
  }

  async #findClients(): Promise<Map<Resource, Clients>> {
    const listening = [...this.#all].filter(({ item }) => item.kind === "listener");
    const clients = await clientsOf(listening, census());
    if (!this.#isOpen) this.#found = clients;
    return new Map(listening.map((resource, i) => [resource, clients[i]]));
  }

  /** Until this generation leaves for good, or accepts again and no such client is left. */
  async #hangUpOnTold(clients: Promise<Map<Resource, Clients>>): Promise<void> {
    const isOver = () => this.#hasLeft || this.#clients !== undefined && this.#clients !== clients;
    const found = await clients;
    const all = [...found].map(([{ serving }, clients]) =>
      serving && hangUpOnTold(serving, clients, isOver)
    );
    await Promise.all(all);
  }

  /** Lets go of the sockets on which it has stopped accepting: they are another one's, or nobody's. */
  release(): void {
    this.#hasLeft = true;
    using each = new DisposableStack();
    for (const { gate, unix } of this.#all) {
      // The last one first: nobody is bound to the path any more when it is looked for.
      if (unix) each.defer(() => unix.leave());
      if (gate) each.use(gate);
    }
  }

  /** Waits until the clients have left, cuts off those that do not, and closes everything. */
  async leave(options: LeaveOptions): Promise<void> {
    const clients = await this.#clients ?? new Map<Resource, Clients>();
    const all = [...this.#all].map((resource) =>
      leave(resource, clients.get(resource) ?? new Clients(), options)
    );
    const failed = (await Promise.allSettled(all)).find(({ status }) => status === "rejected");
    if (failed) throw (failed as PromiseRejectedResult).reason;
  }

  /** How many clients have not left, of those that were there when it stopped accepting. */
  get left(): number {
    return this.#found.reduce((sum, clients) => sum + clients.left().length, 0);
  }

  /** Every socket, as it is told to who asks. */
  sockets(): ReportedSocket[] {
    const all = [...this.#all].filter(({ gate }) => gate && !gate.closed);
    const counts = countConnections(all);
    return all.map(({ item: { kind, path }, address }, i) => ({
      kind: kind as ReportedSocket["kind"],
      address: path === undefined ? formatAddress(address) : formatPath(path),
      connections: kind === "listener" ? counts[i] : 0,
    }));
  }

  /** The paths of every file. */
  files(): string[] {
    return [...this.#all].flatMap(({ item: { kind, key } }) => kind === "file" ? [key] : []);
  }
}

/** Milliseconds for which an address may still be in use after its owner was killed. */
const bindPatience = 1000;

/** Waits for the clients of one resource, and closes it. */
async function leave(
  { serving, gate, fd, close }: Resource,
  clients: Clients,
  { deadline, httpDeadline, forceLimit, hurry, isClosing }: LeaveOptions,
): Promise<void> {
  if (serving) {
    await finish(serving, clients, { deadline: httpDeadline, forceLimit, hurry, isClosing });
    return;
  }
  // What is under way on a connection of another protocol, nobody but its two ends can tell.
  await clients.leave({ milliseconds: deadline, hurry });
  await clients.leave({ milliseconds: forceLimit });
  clients.cut();
  if (gate && !gate.closed) close();
  fd[Symbol.dispose]();
}

/** Calls `notice` when the owner of a native object has closed it, or shut it down. */
export function whenClosed(object: object, notice: () => void): void {
  // A server has a signal as well, which shuts it down.
  (object as Partial<Deno.HttpServer>).finished?.then(notice, notice);
  const methods = object as Record<string | symbol, ((...args: unknown[]) => unknown) | undefined>;
  for (const name of ["close", "shutdown", Symbol.dispose, Symbol.asyncDispose]) {
    const method = methods[name];
    if (!method) continue;
    const value = (...args: unknown[]) => {
      const result = method.apply(object, args);
      notice();
      if (!(result instanceof Promise)) return result;
      // A server has closed its listener a turn later, and is done when its answers are.
      void pause(0).then(notice);
      return result.finally(notice);
    };
    Object.defineProperty(object, name, { value, configurable: true });
  }
}

function sleep(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

function bindListener(place: Place): Fd {
  if (!("path" in place)) {
    return bindNative(() => listenTcp(place));
  }
  const { path, mode } = place;
  if (isBound(path)) {
    throw new Deno.errors.AddrInUse(
      `Cannot listen on ${formatPath(path)}: another instance is serving there`,
    );
  }
  const listener = listen(path, { mode, replace: true });
  return new Fd(listener.fd.take());
}

/** Closes what was bound for an object that was not made, and removes its path. */
function unbind(bound: Fd, place: Place): void {
  if ("path" in place) new UnixListener(bound, place.path).leave();
  else bound[Symbol.dispose]();
}

function bindUdp(place: TcpPlace): Fd {
  return bindNative(() => listenUdp(place));
}

/** Binds and listens with Deno's own call. */
export function listenTcp(place: TcpPlace): Deno.TcpListener {
  return Deno.listen({ ...place });
}

/** The same for datagrams. */
export function listenUdp(
  { hostname = "0.0.0.0", port, reusePort }: TcpPlace,
): Deno.DatagramConn {
  return Deno.listenDatagram({ transport: "udp", hostname, port, reuseAddress: reusePort });
}

/** What a native object is bound to, without the object. */
function bindNative(bind: () => { close(): void }): Fd {
  const { dummy, slot } = capture(bind, (object) => object.close());
  keep(slot);
  try {
    return new Fd(dup(slot.tfd));
  } finally {
    dummy.close();
  }
}
