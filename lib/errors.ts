/**
 * The errors that a caller may handle. An errno of the kernel is thrown as the `Deno.errors` class that Deno itself uses,
 * with the name of the errno as `code`.
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

/** Bytes arrived without a descriptor for them (Go: `ErrEmptyControlMessage`). */
export class EmptyControlMessageError extends GracefulError {
  /** Makes an error with `code` "ERR_EMPTY_CONTROL_MESSAGE". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_EMPTY_CONTROL_MESSAGE", options);
    this.name = "EmptyControlMessageError";
  }
}

/** Descriptors arrived without a record for them; they were closed. */
export class SurplusDescriptorsError extends GracefulError {
  /** Makes an error with `code` "ERR_SURPLUS_DESCRIPTORS". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_SURPLUS_DESCRIPTORS", options);
    this.name = "SurplusDescriptorsError";
  }
}

/** The stream ended inside a record: the sender ended or failed half-way. */
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

/** A meta is longer than one message may be (Go: `ErrLongWrite`); nothing of it was sent. */
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

/** The process at the other end is refused by `allow`: no descriptor was sent or received. */
export class PeerNotAllowedError extends GracefulError {
  /** Makes an error with `code` "ERR_PEER_NOT_ALLOWED". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_PEER_NOT_ALLOWED", options);
    this.name = "PeerNotAllowedError";
  }
}

/**
 * Why a handover has failed:
 *
 * - `ERR_HANDOVER_FAILED`: the next generation failed or ended before it was healthy.
 * - `ERR_HANDOVER_TIMEOUT`: the other process was not ready, or did not answer, in time; or another process holds the
 *   lock of the control path.
 * - `ERR_HANDOVER_BUSY`: another handover, or its probation, is under way.
 * - `ERR_HANDOVER_ROLLED_BACK`: the previous generation accepts again.
 * - `ERR_HANDOVER_SERVICE`: the generation that runs belongs to a service of another name.
 * - `ERR_HANDOVER_MAIN_PROCESS`: the end of the process would end its successor.
 * - `ERR_HANDOVER_VERSION`: the processes have different versions of the handover protocol.
 * - `ERR_HANDOVER_PROTOCOL`: the process at the other end breaks the protocol, or is no generation.
 */
export type HandoverErrorCode =
  | "ERR_HANDOVER_FAILED"
  | "ERR_HANDOVER_TIMEOUT"
  | "ERR_HANDOVER_BUSY"
  | "ERR_HANDOVER_ROLLED_BACK"
  | "ERR_HANDOVER_SERVICE"
  | "ERR_HANDOVER_MAIN_PROCESS"
  | "ERR_HANDOVER_VERSION"
  | "ERR_HANDOVER_PROTOCOL";

/** A handover between two generations of a service has failed, and the running one goes on; `code` says why. */
export class HandoverError extends GracefulError {
  /** Why it has failed. */
  declare readonly code: HandoverErrorCode;

  /** Makes an error with `code`. */
  constructor(
    message: string,
    code: HandoverErrorCode = "ERR_HANDOVER_FAILED",
    options?: ErrorOptions,
  ) {
    super(message, code, options);
    this.name = "HandoverError";
  }
}

/** An object has no descriptor, or it cannot be told for certain which one (Go: `ErrNotFiler`). */
export class NoDescriptorError extends GracefulError {
  /** Makes an error with `code` "ERR_NO_DESCRIPTOR". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_NO_DESCRIPTOR", options);
    this.name = "NoDescriptorError";
  }
}

/** A descriptor is of another kind than was asked for; it stays open, with its owner. */
export class WrongDescriptorError extends GracefulError {
  /** Makes an error with `code` "ERR_WRONG_DESCRIPTOR". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_WRONG_DESCRIPTOR", options);
    this.name = "WrongDescriptorError";
  }
}

/** This system or this version of Deno does not support a call; the message names the alternative. */
export class UnsupportedRuntimeError extends GracefulError {
  /** Makes an error with `code` "ERR_UNSUPPORTED_RUNTIME". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_UNSUPPORTED_RUNTIME", options);
    this.name = "UnsupportedRuntimeError";
  }
}

/** Bytes are not a gob of a map with string keys; the message says where. */
export class GobError extends GracefulError {
  /** Makes an error with `code` "ERR_GOB". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, "ERR_GOB", options);
    this.name = "GobError";
  }
}
