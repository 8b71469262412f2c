/**
 * What a generation has open for its service: listeners, datagram sockets and files, inherited or new.
 * The next generation gets all of it.
 *
 * @module
 */

import { dup, Fd } from "../ffi/fd.ts";
import { type Address, formatAddress, formatPath } from "../ffi/sockaddr.ts";
import { isBound, localAddress } from "../ffi/socket.ts";
import { fdFile, fdPacketConn } from "./adopt.ts";
import { capture, keep } from "./capture.ts";
import { fileDescriptor } from "./descriptor.ts";
import { census, type Clients, clientsOf, countConnections, finish } from "./drain.ts";
import type { OfferedItem, ReportedSocket } from "./frame.ts";
import { Gate } from "./gate.ts";
import type { Serving } from "./http.ts";
import { type Inheritance, keyOf, type Place, type TcpPlace } from "./inheritance.ts";
import { listen, UnixListener } from "./listener.ts";

/** A native object on a listener. */
export interface Listening<T> {
  object: T;
  /** How to close the object. */
  close(): void;
  /** What leaving has to know, if it answers HTTP. */
  serving?: Serving;
}

/** How long leaving may take, in milliseconds. */
export interface FinishOptions {
  /** For the clients of listeners. */
  deadline: number;
  /** For the clients of HTTP to move to another process. */
  httpDeadline: number;
  /** For answers that are under way then. */
  forceLimit?: number;
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

/** Everything that one generation has open; nothing is accepted before `open()`. */
export class Resources {
  readonly #inheritance: Inheritance;
  readonly #isRecent: () => boolean;
  readonly #all = new Set<Resource>();
  #isOpen = false;
  /** Who was connected at the moment in which it stopped accepting. */
  #clients: Promise<Map<Resource, Clients>> | undefined;
  #left: Clients[] = [];

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

  /** Makes a native object on the listener at `place`, inherited or new. */
  listener<T extends object>(place: Place, make: (fd: Fd) => Listening<T>): T {
    using bound = this.#inheritance.takeBound("listener", place)?.fd ??
      this.#bind(() => bindListener(place));
    using used = bound.dup();
    const path = "path" in place ? place.path : undefined;
    const { object, serving, close } = make(used);
    return this.#add(object, bound, close, () => {
      const { addr } = object as { addr?: Deno.Addr };
      if (path === undefined) return { item: { kind: "listener", key: keyOf(place) }, serving };
      if (addr) Object.assign(addr, { path });
      const unix = new UnixListener(bound.dup(), path);
      return { item: { kind: "listener", key: keyOf(place), path }, serving, unix };
    });
  }

  /** Makes a native object on the datagram socket at `place`, inherited or new. */
  datagram(place: TcpPlace): Deno.DatagramConn {
    using bound = this.#inheritance.takeBound("datagram", place)?.fd ??
      this.#bind(() => bindUdp(place));
    using used = bound.dup();
    const socket = fdPacketConn(used);
    const item = { kind: "datagram", key: keyOf(place) } as const;
    return this.#add(socket, bound, () => socket.close(), () => ({ item }));
  }

  /** Makes a native file of the one that is open at `path`, inherited or new. */
  file(path: string, options: Deno.OpenOptions): Deno.FsFile {
    using unfinished = new DisposableStack();
    const inherited = this.#inheritance.take("file", path)?.fd;
    const file = unfinished.use(
      inherited ? fdFile(unfinished.use(inherited)) : Deno.openSync(path, options),
    );
    const item = { kind: "file", key: path } as const;
    this.#all.add({ item, fd: fileDescriptor(file), close: () => {} });
    unfinished.move();
    return file;
  }

  /** Adds what is on `bound`, which stays the caller's; closes the object if it cannot. */
  #add<T extends object>(
    object: T,
    bound: Fd,
    close: () => void,
    describe: () => Pick<Resource, "item" | "serving" | "unix">,
  ): T {
    using unfinished = new DisposableStack();
    unfinished.defer(close);
    const fd = unfinished.use(bound.dup());
    const gate = new Gate(object, fd);
    if (!this.#isOpen) gate.shut();
    this.#all.add({ ...describe(), fd, gate, address: localAddress(fd.raw), close });
    unfinished.move();
    return object;
  }

  /** Binds anew; what a predecessor that was killed has left behind may take a moment to go. */
  #bind(bind: () => Fd): Fd {
    const end = performance.now() + bindPatience;
    for (;;) {
      try {
        return bind();
      } catch (error) {
        const inUse = error instanceof Deno.errors.AddrInUse;
        if (!inUse || !this.#isRecent() || performance.now() > end) throw error;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
      }
    }
  }

  /** What there is to hand over; the descriptors stay here. */
  offered(): { item: OfferedItem; fd: Fd }[] {
    for (const resource of this.#all) {
      if (resource.gate?.closed) this.#drop(resource);
    }
    return [...this.#all];
  }

  #drop(resource: Resource): void {
    this.#all.delete(resource);
    resource.gate?.[Symbol.dispose]();
    resource.unix?.[Symbol.dispose]();
  }

  /** Accepts, for the first time or again. */
  open(): void {
    this.#isOpen = true;
    this.#clients = undefined;
    for (const { gate, serving } of this.#all) {
      if (serving) serving.leaving = false;
      gate?.open();
    }
  }

  /** Stops accepting, in a way that can be undone. */
  shut(): void {
    this.#isOpen = false;
    for (const { gate, serving } of this.#all) {
      gate?.shut();
      if (serving) serving.leaving = true;
    }
    this.#clients ??= this.#findClients();
  }

  async #findClients(): Promise<Map<Resource, Clients>> {
    const listening = [...this.#all].filter(({ item }) => item.kind === "listener");
    const clients = await clientsOf(listening.map(({ address }) => address), census());
    return new Map(listening.map((resource, i) => [resource, clients[i]]));
  }

  /** Lets go of the sockets on which it has stopped accepting: they are another one's, or nobody's. */
  release(): void {
    for (const { gate, unix } of this.#all) {
      gate?.[Symbol.dispose]();
      unix?.leave();
    }
  }

  /** Waits until the clients have left, and closes everything. */
  async finish({ deadline, httpDeadline, forceLimit }: FinishOptions): Promise<void> {
    const clients = await this.#clients!;
    this.#left = [...clients.values()];
    const finishing = [...this.#all].map((resource) => {
      const { serving } = resource;
      if (!serving) return leave(resource, clients.get(resource), deadline);
      return finish(serving, clients.get(resource)!, { deadline: httpDeadline, forceLimit });
    });
    await Promise.all(finishing);
  }

  /** How many clients there are that have not left. */
  get left(): number {
    return this.#left.reduce((sum, clients) => sum + clients.left().length, 0);
  }

  /** Every socket, as it is told to who asks. */
  sockets(): ReportedSocket[] {
    return [...this.#all].flatMap(({ item: { kind, path }, address, gate }) => {
      if (!gate || gate.closed || kind !== "listener" && kind !== "datagram") return [];
      return [{
        kind,
        address: path === undefined ? formatAddress(address) : formatPath(path),
        connections: kind === "listener" ? countConnections(address) : 0,
      }];
    });
  }

  /** The paths of every file. */
  files(): string[] {
    return [...this.#all].flatMap(({ item: { kind, key } }) => kind === "file" ? [key] : []);
  }
}

/** Milliseconds for which an address may still be in use after its owner was killed. */
const bindPatience = 1000;

/** Waits for the clients of what is no HTTP server, and closes it. */
async function leave(
  { gate, fd, close }: Resource,
  clients: Clients | undefined,
  deadline: number,
): Promise<void> {
  await clients?.leave({ milliseconds: deadline });
  if (gate && !gate.closed) close();
  fd[Symbol.dispose]();
}

function bindListener(place: Place): Fd {
  if (!("path" in place)) {
    return bindNative(() => Deno.listen(place as Deno.TcpListenOptions));
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

function bindUdp({ hostname = "0.0.0.0", port, reusePort }: TcpPlace): Fd {
  return bindNative(() =>
    Deno.listenDatagram({ transport: "udp", hostname, port, reuseAddress: reusePort })
  );
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
