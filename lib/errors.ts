/**
 * The errors that a caller may want to tell apart. What the kernel refuses is thrown as the
 * `Deno.errors` class that Deno itself uses, with the errno's name as `code`.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

/**
 * Base of every error of this library's own; `code` names the case.
 *
 * ```ts
 * import { GracefulError, LongWriteError } from "@graceful/deno";
 * import { assertInstanceOf } from "@std/assert";
 *
 * assertInstanceOf(new LongWriteError("meta of 5000 bytes"), GracefulError);
 * ```
 */
export class GracefulError extends Error {
  /** The case, as a constant: `"ERR_LONG_WRITE"`. */
  readonly code: string;

  /** Makes an error; subclasses set `name` and `code`. */
  constructor(message: string, code: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "GracefulError";
    this.code = code;
  }
}

/** Bytes arrived that no descriptor belongs to (Go: `ErrEmptyControlMessage`). */
export class EmptyControlMessageError extends GracefulError {
  /** Makes an error with `code` "ERR_EMPTY_CONTROL_MESSAGE". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_EMPTY_CONTROL_MESSAGE", options);
    this.name = "EmptyControlMessageError";
  }
}

/** Descriptors arrived that no record belongs to; they were closed. */
export class SurplusDescriptorsError extends GracefulError {
  /** Makes an error with `code` "ERR_SURPLUS_DESCRIPTORS". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_SURPLUS_DESCRIPTORS", options);
    this.name = "SurplusDescriptorsError";
  }
}

/** The stream ended inside a record: the sender died or gave up half-way. */
export class UnexpectedEofError extends GracefulError {
  /** Makes an error with `code` "ERR_UNEXPECTED_EOF". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_UNEXPECTED_EOF", options);
    this.name = "UnexpectedEofError";
  }
}

/** A record announces more meta bytes than the receiver allows; nothing was allocated for it. */
export class LongReadError extends GracefulError {
  /** Makes an error with `code` "ERR_LONG_READ". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_LONG_READ", options);
    this.name = "LongReadError";
  }
}

/** A meta is longer than one message carries (Go: `ErrLongWrite`); nothing of it was sent. */
export class LongWriteError extends GracefulError {
  /** Makes an error with `code` "ERR_LONG_WRITE". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_LONG_WRITE", options);
    this.name = "LongWriteError";
  }
}

/** The kernel dropped descriptors of a message (`MSG_CTRUNC`); what arrived was closed. */
export class ControlTruncatedError extends GracefulError {
  /** Makes an error with `code` "ERR_CONTROL_TRUNCATED". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_CONTROL_TRUNCATED", options);
    this.name = "ControlTruncatedError";
  }
}

/** Not a connection that can carry descriptors (Go: `ErrNotUnixConn`). */
export class NotUnixConnError extends GracefulError {
  /** Makes an error with `code` "ERR_NOT_UNIX_CONN". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_NOT_UNIX_CONN", options);
    this.name = "NotUnixConnError";
  }
}

/** Not a listener whose connections can carry descriptors (Go: `ErrNotUnixListener`). */
export class NotUnixListenerError extends GracefulError {
  /** Makes an error with `code` "ERR_NOT_UNIX_LISTENER". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_NOT_UNIX_LISTENER", options);
    this.name = "NotUnixListenerError";
  }
}

/** The process at the other end is not one that may have, or give, descriptors; none was. */
export class PeerNotAllowedError extends GracefulError {
  /** Makes an error with `code` "ERR_PEER_NOT_ALLOWED". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_PEER_NOT_ALLOWED", options);
    this.name = "PeerNotAllowedError";
  }
}

/**
 * A handover between two generations of a service did not come about; the running one goes on. `code`
 * says why: "ERR_HANDOVER_BUSY" another handover is under way, "ERR_HANDOVER_VERSION" they do not
 * speak the same protocol, "ERR_HANDOVER_PROTOCOL" one of them broke it, "ERR_HANDOVER_TIMEOUT" one did
 * not answer in time, "ERR_HANDOVER_SERVICE" they are of services of different names,
 * "ERR_HANDOVER_FAILED" the next one gave up or died, "ERR_HANDOVER_ROLLED_BACK" the running one changed
 * its mind, "ERR_HANDOVER_MAIN_PROCESS" the end of its process would end the next one too.
 */
export class HandoverError extends GracefulError {
  /** Makes an error with `code`. */
  constructor(message: string, code = "ERR_HANDOVER_FAILED", options?: ErrorOptions) {
    super(message, code, options);
    this.name = "HandoverError";
  }
}

/** The descriptor behind an object cannot be had, or not for certain (Go: `ErrNotFiler`). */
export class NoDescriptorError extends GracefulError {
  /** Makes an error with `code` "ERR_NO_DESCRIPTOR". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_NO_DESCRIPTOR", options);
    this.name = "NoDescriptorError";
  }
}

/** A descriptor is not of the kind asked for; it stays open, with its owner. */
export class WrongDescriptorError extends GracefulError {
  /** Makes an error with `code` "ERR_WRONG_DESCRIPTOR". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_WRONG_DESCRIPTOR", options);
    this.name = "WrongDescriptorError";
  }
}

/** This system or this Deno cannot do it; the message names the alternative. */
export class UnsupportedRuntimeError extends GracefulError {
  /** Makes an error with `code` "ERR_UNSUPPORTED_RUNTIME". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_UNSUPPORTED_RUNTIME", options);
    this.name = "UnsupportedRuntimeError";
  }
}

/** Bytes are not a gob of a map of strings; the message says where. */
export class GobError extends GracefulError {
  /** Makes an error with `code` "ERR_GOB". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_GOB", options);
    this.name = "GobError";
  }
}
