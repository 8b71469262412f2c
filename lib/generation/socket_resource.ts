/**
 * One listener or datagram socket of a generation: its descriptor, its native object, its accept switch and its path.
 *
 * @module
 */

import type { Fd } from "../../ffi/fd.ts";
import { isRunning } from "../../ffi/proc.ts";
import { type Address, formatAddress, formatPath } from "../../ffi/sockaddr.ts";
import { belongsToNetwork, networkNamespace, ownNetworkNamespace } from "../../ffi/peer.ts";
import { localAddress } from "../../ffi/socket.ts";
import { limitBlocking, setAcceptQueueLength, setMulticastLoop } from "../../ffi/socket_options.ts";
import { DisposableStack } from "../disposable_stack.ts";
import type { AcceptingListener, Connections } from "../http/connections.ts";
import { drainConnections } from "../http/drain.ts";
import type { DrainedServer } from "../http/drained_server.ts";
import type { Logger } from "../logger.ts";
import { Gate } from "../native/accept_switch.ts";
import { UnixListener } from "../unix/listener.ts";
import { type BoundSocket, type PathOwner, restorePath, type SocketKind } from "./bind.ts";
import { type AnyListenAddress, type Inherited, keyOf } from "./inheritance.ts";
import { fileOf, offeredFile, type OfferedItem } from "./protocol.ts";
import type { DrainLimits, OfferedResource } from "./resources.ts";

/** A native object on a socket. */
export interface NativeObject<T extends object = object> {
  /** The listener, server or datagram socket of the program. */
  object: T;
  /** Calls the program's `onListen`, which may throw. */
  announce?(): void;
  /** Closes the object. */
  close(): void;
  /** Closes the object when it is aborted. */
  signal?: AbortSignal;
  /** The requests and answers of an HTTP server. */
  tracker?: DrainedServer;
}

/** Milliseconds between two looks at whether clients still wait at a replaced socket. */
const replaceInterval = 20;

/** A listener or datagram socket that the next generation gets. */
export class SocketResource implements AcceptingListener, Disposable {
  /** Its description in an offer. */
  readonly item: OfferedItem;
  /** The socket. */
  readonly fd: Fd;
  /** The requests and answers of an HTTP server. */
  readonly tracker?: DrainedServer;
  /** Whether the predecessor has handed it over. */
  readonly isInherited: boolean;
  /** Whether the socket is reached only in another network namespace than that of this process. */
  readonly isElsewhere: boolean;
  readonly #gate: Gate;
  readonly #backlog?: number;
  readonly #close: () => void;
  readonly #unix?: PathOwner;
  /** The socket that was bound at its path meanwhile: the object moves there when no client waits at the old one. */
  #replacement?: PathOwner;
  #replaceTimer?: ReturnType<typeof setTimeout>;
  #address?: Address;
  readonly #formerAddresses: Address[] = [];
  #isOpen: boolean;
  #isReleased = false;

  /**
   * Duplicates the descriptor of `bound`, which stays the caller's together with its paths.
   *
   * @param isOpen Whether it accepts from here on; else from `open()` on.
   */
  constructor(
    kind: SocketKind,
    address: AnyListenAddress,
    { object, close, tracker }: NativeObject,
    bound: BoundSocket & { isInherited: boolean },
    isOpen: boolean,
  ) {
    this.isInherited = bound.isInherited;
    using undo = new DisposableStack();
    this.fd = undo.use(bound.fd.dup());
    this.#gate = undo.use(new Gate(object, this.fd));
    // A closed server keeps its socket for another turn: it must not accept in that.
    undo.defer(() => this.#gate.shut());
    this.#isOpen = isOpen;
    if (!isOpen) this.#gate.shut();
    this.#close = close;
    this.tracker = tracker;
    this.#unix = bound.unix;
    this.#replacement = bound.replacement;
    const { activated } = bound;
    this.item = { kind, key: keyOf(address), name: address.name, activated };
    if ("backlog" in address && address.backlog !== undefined) {
      this.#backlog = address.backlog;
      // After adoption, which sets the length of Deno's own listeners.
      setAcceptQueueLength(this.fd.raw, address.backlog);
      if (this.#replacement) setAcceptQueueLength(this.#replacement.fd.raw, address.backlog);
    }
    if ("loopback" in address && address.loopback !== undefined) {
      setMulticastLoop(this.fd.raw, address.loopback);
    }
    this.#address = localAddress(this.fd.raw);
    this.isElsewhere = isInOtherNetwork(this.fd.raw);
    // A socket unit's may be bound elsewhere, and be no unix socket: it is found by its name then.
    if ("path" in address && !activated) {
      this.item.path = address.path;
      Object.assign((object as { addr?: Deno.Addr }).addr ?? {}, { path: address.path });
    }
    undo.move();
  }

  /** The address that the socket is bound to. */
  get address(): Address | undefined {
    return this.#address;
  }

  /** The addresses of the sockets that were replaced: their connections are still this listener's. */
  get formerAddresses(): Address[] {
    return this.#formerAddresses;
  }

  /** Its address in words: the path, if it was asked for by that. */
  get formattedAddress(): string {
    const { path } = this.item;
    return path === undefined ? formatAddress(this.#address) : formatPath(path);
  }

  /** Whether the program has closed the object. */
  get isClosed(): boolean {
    return this.#gate.closed;
  }

  /** Keeps a descriptor of the socket file: the file is found by it after it was renamed. */
  trackFile(): void {
    this.#unix?.trackFile();
  }

  /** Starts accepting, or accepts again. */
  open(): void {
    this.#isOpen = true;
    this.tracker?.withdrawClose();
    this.#gate.open();
  }

  /** Stops accepting; can be undone by `open()`. */
  shut(): void {
    this.#isOpen = false;
    this.tracker?.announceClose();
    this.#gate.shut();
  }

  /** The socket as the next generation gets it. */
  offered(): OfferedResource {
    const { senderPid } = this.fd;
    const { file } = this.#replacement ?? this.#unix ?? {};
    return {
      item: {
        ...this.item,
        senderPid: senderPid !== undefined && isRunning(senderPid) ? senderPid : undefined,
        file: file && offeredFile(file),
      },
      // The clients that wait at the old socket are accepted by this generation.
      fd: this.#replacement?.fd ?? this.fd,
    };
  }

  /**
   * Makes its path lead to it again, or to a replacement.
   *
   * @throws {Deno.errors.AddrInUse} When another process listens there.
   */
  restorePath(logger: Logger): void {
    const { path } = this.item;
    if (!this.#unix || path === undefined) return;
    const restored = restorePath(path, this.#replacement ?? this.#unix, logger);
    if (restored) {
      this.#replacement?.release();
      this.#replacement = restored;
      if (this.#backlog !== undefined) setAcceptQueueLength(restored.fd.raw, this.#backlog);
    }
    this.moveToReplacement();
  }

  /** Moves the object to the replacement of its socket as soon as no client waits at the old one. */
  moveToReplacement(): void {
    const unix = this.#unix;
    const replacement = this.#replacement;
    if (!replacement || !unix) return;
    // One timer at a time, however often the paths are restored meanwhile.
    clearTimeout(this.#replaceTimer);
    if (!this.#isOpen || this.#isReleased || this.isClosed) return;
    // The object accepts the waiting clients at once, as a rule.
    if (!unix.isIdle) {
      this.#replaceTimer = setTimeout(() => this.moveToReplacement(), replaceInterval);
      Deno.unrefTimer(this.#replaceTimer);
      return;
    }
    this.#gate.exchange(replacement.fd.raw);
    if (unix instanceof UnixListener) unix.adoptSocket(replacement as UnixListener);
    else unix.adoptSocket(replacement as Exclude<PathOwner, UnixListener>);
    this.#replacement = undefined;
    if (this.#address) this.#formerAddresses.push(this.#address);
    this.#address = localAddress(this.fd.raw);
  }

  /** Waits for the clients, cuts the connections of those that stay, and closes the object. */
  async drain(clients: Connections, limits: DrainLimits): Promise<void> {
    const { drainTimeout, httpDrainTimeout, forceCloseAfter, hurry, isClosing } = limits;
    if (this.tracker) {
      const drainTimeout = httpDrainTimeout;
      const http = { drainTimeout, forceCloseAfter, hurry, isClosingWebSockets: isClosing };
      await drainConnections(this.tracker, clients, http);
      return;
    }
    // The protocol of these connections is not known: only their two ends see whether they are idle.
    await clients.waitUntilClosed({ milliseconds: drainTimeout, hurry });
    await clients.waitUntilClosed({ milliseconds: forceCloseAfter });
    clients.forceClose();
    if (!this.isClosed) this.#close();
    this.fd[Symbol.dispose]();
  }

  /**
   * Closes the descriptors of the socket, and removes its path unless another process listens there. The object stays
   * as it is: off its socket after `shut()`.
   */
  release(): void {
    this.#isReleased = true;
    using each = new DisposableStack();
    // In reverse: the path is removed where no socket is bound to it any more.
    if (this.#unix) each.defer(() => this.#unix!.release());
    if (this.#replacement) each.defer(() => this.#replacement!.release());
    each.use(this.#gate);
  }

  /** The socket as it was inherited, for a next call of the program, which has closed the object; its path stays. */
  giveBack(): Inherited {
    const { item, fd } = this.offered();
    const inherited: Inherited = { item, fd: fd.dup(), file: item.file && fileOf(item.file) };
    this.#unix?.keepPath();
    this.#unix?.[Symbol.dispose]();
    this.#replacement?.keepPath();
    this.#replacement?.[Symbol.dispose]();
    this[Symbol.dispose]();
    return inherited;
  }

  /** Lets calls on the socket of a socket unit block again: the next program of the unit may rely on that. */
  allowBlocking(): void {
    if (this.item.activated) limitBlocking(this.fd.raw, 0);
  }

  /** Closes the descriptors; the paths stay the caller's. */
  [Symbol.dispose](): void {
    this.#isReleased = true;
    // A closed server keeps its socket for another turn: it must not accept in that.
    using _gate = this.#gate;
    this.#gate.shut();
  }
}

function isInOtherNetwork(raw: number): boolean {
  if (!belongsToNetwork(raw)) return false;
  const network = networkNamespace(raw);
  const own = ownNetworkNamespace();
  return network !== undefined && own !== undefined && network !== own;
}
