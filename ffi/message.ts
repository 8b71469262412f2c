/**
 * One sendmsg(2) or recvmsg(2) with descriptors: SCM_RIGHTS of unix(7), in the layout of cmsg(3).
 *
 * The buffers are made once and reused: their addresses do not move.
 *
 * @module
 */

import { c, cmsg, errnos, structs } from "./abi.ts";
import { errno, systemError, uninterrupted } from "./errno.ts";
import { closeRaw, isOpen } from "./fd.ts";
import { addressOf, libc } from "./libc.ts";

const { iovec, msghdr, cmsghdr } = structs;
const baseAt = iovec.offset("iov_base");
const lengthAt = iovec.offset("iov_len");
const controlAt = msghdr.offset("msg_control");
const controlLengthAt = msghdr.offset("msg_controllen");
const flagsAt = msghdr.offset("msg_flags");
const messageLengthAt = cmsghdr.offset("cmsg_len");
const levelAt = cmsghdr.offset("cmsg_level");
const typeAt = cmsghdr.offset("cmsg_type");
const firstData = cmsg.length(0);

/** The most descriptors of one message (net/scm.h, `SCM_MAX_FD`). */
export const maxDescriptors: number = c.SCM_MAX_FD;

/** The result of `send` and `receive` when they would block. */
export const wouldBlock = -1;

/**
 * The result of `send` when too many descriptors of this user are in flight: as many as RLIMIT_NOFILE (unix(7),
 * ETOOMANYREFS). No readiness event reports the end of that.
 */
export const tooManyInFlight = -2;

/** The error when `tooManyInFlight` has lasted for that long. */
export function inFlightError(milliseconds: number): Error {
  return systemError(
    errnos.ETOOMANYREFS,
    `Cannot send descriptors: for ${milliseconds} ms, RLIMIT_NOFILE of this user's have been on ` +
      `their way to receivers that do not read them`,
  );
}

/** The buffers of one message: data, control message and header. */
class MessageBuffers {
  readonly data: Uint8Array<ArrayBuffer>;
  protected readonly control: Uint8Array<ArrayBuffer>;
  protected readonly controlView: DataView;
  protected readonly header: Uint8Array<ArrayBuffer>;
  protected readonly headerView: DataView;
  protected readonly iovView: DataView;
  protected readonly dataAddress: bigint;
  protected readonly controlAddress: bigint;

  constructor(dataBytes: number, controlBytes: number) {
    this.data = new Uint8Array(dataBytes);
    this.control = new Uint8Array(controlBytes);
    this.controlView = new DataView(this.control.buffer);
    const iov = iovec.pack({ iov_base: this.data, iov_len: dataBytes }, addressOf);
    this.header = msghdr.pack(
      { msg_iov: iov, msg_iovlen: 1, msg_control: this.control },
      addressOf,
    );
    this.iovView = new DataView(iov.buffer);
    this.headerView = new DataView(this.header.buffer);
    this.dataAddress = addressOf(this.data);
    this.controlAddress = addressOf(this.control);
  }
}

/** The buffers of an outgoing message: fill `data` and `descriptors`, then call `send`. */
export class OutgoingMessage extends MessageBuffers {
  /** The numbers that `send` passes along: a view into the control message. */
  readonly descriptors: Int32Array;

  constructor(dataBytes: number) {
    super(dataBytes, cmsg.space(4 * maxDescriptors));
    this.control.set(cmsghdr.pack({ cmsg_level: c.SOL_SOCKET, cmsg_type: c.SCM_RIGHTS }));
    this.descriptors = new Int32Array(this.control.buffer, firstData, maxDescriptors);
  }

  /**
   * Sends the bytes of `data` from `start` to `end`, with the first `count` descriptors.
   *
   * Gives how many bytes went out: if some did, all the descriptors did, and the rest is to be sent
   * with none. Gives `wouldBlock` when nothing went out because the socket's buffer is full, and
   * `tooManyInFlight` when it was because of the descriptors.
   */
  send(raw: number, start: number, end: number, count: number): number {
    this.iovView.setBigUint64(baseAt, this.dataAddress + BigInt(start), true);
    this.iovView.setBigUint64(lengthAt, BigInt(end - start), true);
    const used = count === 0 ? 0 : cmsg.space(4 * count);
    this.headerView.setBigUint64(controlAt, count === 0 ? 0n : this.controlAddress, true);
    this.headerView.setBigUint64(controlLengthAt, BigInt(used), true);
    if (count > 0) {
      this.controlView.setBigUint64(messageLengthAt, BigInt(cmsg.length(4 * count)), true);
    }
    const flags = c.MSG_DONTWAIT | c.MSG_NOSIGNAL;
    const sent = uninterrupted(() => libc().sendmsg(raw, this.header, flags), errnos.ENOENT);
    if (sent >= 0) return sent;
    const code = errno();
    if (code === errnos.EAGAIN) return wouldBlock;
    if (code === errnos.ETOOMANYREFS) return tooManyInFlight;
    throw this.#sendError(code, raw, count);
  }

  #sendError(code: number, raw: number, count: number): Error {
    if (code === errnos.EBADF && isOpen(raw)) {
      const bad = this.descriptors.subarray(0, count).find((descriptor) => !isOpen(descriptor));
      if (bad !== undefined) return systemError(code, `Cannot send descriptor ${bad}`);
    }
    const what = count === 0 ? "write" : `send ${count} descriptors`;
    return systemError(code, `Cannot ${what} to descriptor ${raw}`);
  }
}

/** The buffers of an incoming message. */
export class IncomingMessage extends MessageBuffers {
  /** The descriptors that came with the last message, in their order; the first `count` are set. */
  readonly descriptors: Int32Array = new Int32Array(maxDescriptors);
  /** How many descriptors came with the last message. The caller of `receive` owns them. */
  count = 0;
  /** Whether the kernel had to drop descriptors of the last message (`MSG_CTRUNC`). */
  truncated = false;

  constructor(dataBytes: number) {
    // A full SCM_RIGHTS, and room for the credentials, pidfd and label that a socket may be set to.
    super(dataBytes, 4096);
  }

  /**
   * Receives at most `most` bytes into `data`, and descriptors, close-on-exec.
   *
   * Gives the number of bytes, 0 at the end of the stream, `wouldBlock` when there is nothing yet.
   */
  receive(raw: number, most: number = this.data.length): number {
    this.count = 0;
    this.truncated = false;
    this.iovView.setBigUint64(lengthAt, BigInt(most), true);
    this.headerView.setBigUint64(controlLengthAt, BigInt(this.control.length), true);
    const flags = c.MSG_DONTWAIT | c.MSG_CMSG_CLOEXEC;
    const received = uninterrupted(() => libc().recvmsg(raw, this.header, flags), errnos.ENOENT);
    if (received < 0) {
      const code = errno();
      if (code === errnos.EAGAIN) return wouldBlock;
      throw systemError(code, `Cannot receive from descriptor ${raw}`);
    }
    // MSG_CMSG_CLOEXEC is echoed here too (net/core/scm.c), so by mask.
    this.truncated = (this.headerView.getInt32(flagsAt, true) & c.MSG_CTRUNC) !== 0;
    this.#walk(Number(this.headerView.getBigUint64(controlLengthAt, true)));
    return received;
  }

  /** CMSG_FIRSTHDR, CMSG_NXTHDR and CMSG_DATA of cmsg(3). */
  #walk(controlLength: number): void {
    const view = this.controlView;
    for (let at = 0; at + cmsghdr.size <= controlLength;) {
      const length = Number(view.getBigUint64(at + messageLengthAt, true));
      if (length < cmsghdr.size) return;
      if (view.getInt32(at + levelAt, true) === c.SOL_SOCKET) {
        const type = view.getInt32(at + typeAt, true);
        const end = Math.min(at + length, controlLength);
        if (type === c.SCM_RIGHTS) this.#collect(at + firstData, end);
        if (type === c.SCM_PIDFD) this.#discard(at + firstData, end);
      }
      at += cmsg.align(length);
    }
  }

  #collect(start: number, end: number): void {
    for (let at = start; at + 4 <= end; at += 4) {
      this.descriptors[this.count++] = this.controlView.getInt32(at, true);
    }
  }

  /** A pidfd that the socket was set to announce (SO_PASSPIDFD): nobody here asked for it. */
  #discard(start: number, end: number): void {
    if (start + 4 > end) return;
    const raw = this.controlView.getInt32(start, true);
    if (raw >= 0) closeRaw(raw);
  }
}
