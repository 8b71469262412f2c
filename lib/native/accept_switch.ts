/**
 * Switches a native listener, server or datagram socket off its socket and on again: connections that arrive meanwhile
 * are accepted by another process, or queued in the kernel.
 *
 * @module
 */

import { Fd, replace } from "../../ffi/fd.ts";
import { deafDatagramSocket, deafListener } from "../../ffi/socket.ts";
import { ifSocket, socketCookie, socketKind } from "../../ffi/socket_options.ts";
import { denoRegistrations, exchange, type Registration } from "../event_loop/registration.ts";
import { remembered, rememberSocket } from "./registry.ts";
import { NoDescriptorError } from "../errors.ts";

/**
 * Switches one adopted object: it has a descriptor of its own for the object's socket, by which the object is put
 * back.
 */
export class Gate implements Disposable {
  /** The socket, whether the object is on it or off. */
  readonly fd: Fd;
  /** The idle socket that the object is put on: made ahead, because later no descriptor may be left. */
  readonly #deaf: Fd;
  readonly #registration: Registration;
  /** The socket that the object has now: another one means that the object was closed. */
  #cookie: bigint;
  #open = true;

  /**
   * Takes `fd` over.
   *
   * @throws {NoDescriptorError} When `object` was not adopted, or is closed.
   */
  constructor(object: object, fd: Fd) {
    const place = remembered(object);
    const registration = denoRegistrations().find(({ tfd }) => tfd === place);
    if (!registration) {
      throw new NoDescriptorError("The object is closed, or not one of this library's");
    }
    this.fd = fd;
    this.#deaf = new Fd(deafSocket(registration));
    this.#registration = registration;
    this.#cookie = socketCookie(registration.tfd);
    rememberSocket(object, () => this.fd.owned && !this.closed ? this.fd : undefined);
  }

  /** Puts the object on its socket: it accepts. */
  open(): void {
    if (this.#open || this.closed) return;
    exchange(this.#registration, this.fd.raw);
    this.#cookie = socketCookie(this.#registration.tfd);
    this.#open = true;
  }

  /** Puts the object on the idle socket: it waits, and notices nothing. */
  shut(): void {
    if (!this.#open || this.closed) return;
    exchange(this.#registration, this.#deaf.raw);
    this.#cookie = socketCookie(this.#registration.tfd);
    this.#open = false;
  }

  /** Replaces the object's socket by a duplicate of `raw`, whether it is on or off. */
  exchange(raw: number): void {
    replace(raw, this.fd.raw);
    if (!this.#open || this.closed) return;
    exchange(this.#registration, raw);
    this.#cookie = socketCookie(this.#registration.tfd);
  }

  /** Whether the program has closed the object. */
  get closed(): boolean {
    const { tfd } = this.#registration;
    return ifSocket(tfd, () => socketCookie(tfd)) !== this.#cookie;
  }

  /** Closes its own descriptors; the object stays where it is. */
  [Symbol.dispose](): void {
    this.fd[Symbol.dispose]();
    this.#deaf[Symbol.dispose]();
  }
}

/** Replaces the socket of a native object by an idle one. */
export function park(registration: Registration): void {
  using deaf = new Fd(deafSocket(registration));
  exchange(registration, deaf.raw);
}

/** Makes an idle socket of the same kind as a native object's. */
function deafSocket({ tfd }: Registration): number {
  return socketKind(tfd)?.type === "datagram" ? deafDatagramSocket() : deafListener();
}
