/**
 * Whether a native listener, server or datagram socket is on its socket, or off it for a while: what
 * arrives then is left to another process, or waits in the kernel.
 *
 * @module
 */

import { Fd, replace } from "../../ffi/fd.ts";
import {
  deafDatagramSocket,
  deafListener,
  ifSocket,
  socketCookie,
  socketKind,
} from "../../ffi/socket.ts";
import { denoRegistrations, exchange, type Registration } from "../event_loop/registration.ts";
import { remembered, rememberSocket } from "./descriptor.ts";
import { NoDescriptorError } from "../errors.ts";

/**
 * The place of a native object that was adopted, and a descriptor of its own for the same socket, by
 * which the object can come back to it.
 */
export class Gate implements Disposable {
  /** The socket, whether the object is on it or off it. */
  readonly fd: Fd;
  /** The socket that the object is put on: made ahead, because later no descriptor may be left. */
  readonly #deaf: Fd;
  readonly #registration: Registration;
  /** The socket that is in the place: another one there means that the object is closed. */
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

  /** Lets the object have what arrives. */
  open(): void {
    if (this.#open || this.closed) return;
    exchange(this.#registration, this.fd.raw);
    this.#cookie = socketCookie(this.#registration.tfd);
    this.#open = true;
  }

  /** Puts the object on a socket on which nothing arrives: it waits, and notices nothing. */
  shut(): void {
    if (!this.#open || this.closed) return;
    exchange(this.#registration, this.#deaf.raw);
    this.#cookie = socketCookie(this.#registration.tfd);
    this.#open = false;
  }

  /** Has the object, whether it is on its socket or off it, have what `raw` is open on in place of that. */
  exchange(raw: number): void {
    replace(raw, this.fd.raw);
    if (!this.#open || this.closed) return;
    exchange(this.#registration, raw);
    this.#cookie = socketCookie(this.#registration.tfd);
  }

  /** Whether its owner has closed the object. */
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

/** Puts a socket on which nothing arrives in the place of a native object. */
export function park(registration: Registration): void {
  using deaf = new Fd(deafSocket(registration));
  exchange(registration, deaf.raw);
}

/** A socket of the kind that is in the place of a native object, on which nothing arrives. */
function deafSocket({ tfd }: Registration): number {
  return socketKind(tfd)?.type === "datagram" ? deafDatagramSocket() : deafListener();
}
