/**
 * The end of a stream that Python sends, at every byte.
 *
 * @module
 */

import { assertEquals, assertRejects } from "@std/assert";
import {
  connect,
  EmptyControlMessageError,
  receive,
  receiveAllFrom,
  SurplusDescriptorsError,
  UnexpectedEofError,
} from "../../mod.ts";
import { test } from "../support/guard.ts";
import { text } from "./bytes.ts";
import { Files } from "./files.ts";
import { PythonPeer, type Step, withPython } from "./python_peer.ts";
import { collect, encode, type Item, message, note, threeRecords } from "./python_streams.ts";

/** The result of receiving a stream that is cut after `from` to `to` of its bytes. */
interface Ending {
  from: number;
  to: number;
  /** The number of records that are received. */
  delivered: number;
  /** The error that the receiver throws; undefined if the end is a regular one. */
  thrown?: ErrorClass;
  message?: (cut: number) => string;
}

// deno-lint-ignore no-explicit-any -- as the parameter of assertRejects()
type ErrorClass = new (...args: any[]) => Error;

const inHeader = (start: number) => (cut: number) =>
  `ended after ${cut - start} of the 4 bytes of a record's length`;
const inMeta = (start: number, length: number) => (cut: number) =>
  `ended after ${cut - start} of the ${length} bytes of a record's meta`;
const bytesLeft = (start: number) => (cut: number) => `ended with ${cut - start} bytes without`;

/**
 * The results by the number of descriptors. The stream is 00000000 01000000 'a' 14000000 and twenty bytes:
 * its records end at 4, 9 and 33. All descriptors arrive with the first byte, and none with an empty stream.
 */
const endings: Record<string, Ending[]> = {
  "3": [
    { from: 0, to: 0, delivered: 0 },
    { from: 1, to: 3, delivered: 0, thrown: UnexpectedEofError, message: inHeader(0) },
    {
      from: 4,
      to: 4,
      delivered: 1,
      thrown: SurplusDescriptorsError,
      message: () => "2 descriptors without",
    },
    { from: 5, to: 7, delivered: 1, thrown: UnexpectedEofError, message: inHeader(4) },
    { from: 8, to: 8, delivered: 1, thrown: UnexpectedEofError, message: inMeta(8, 1) },
    {
      from: 9,
      to: 9,
      delivered: 2,
      thrown: SurplusDescriptorsError,
      message: () => "1 descriptor without",
    },
    { from: 10, to: 12, delivered: 2, thrown: UnexpectedEofError, message: inHeader(9) },
    { from: 13, to: 32, delivered: 2, thrown: UnexpectedEofError, message: inMeta(13, 20) },
    { from: 33, to: 33, delivered: 3 },
  ],
  "2": [
    { from: 0, to: 0, delivered: 0 },
    { from: 1, to: 3, delivered: 0, thrown: UnexpectedEofError, message: inHeader(0) },
    {
      from: 4,
      to: 4,
      delivered: 1,
      thrown: SurplusDescriptorsError,
      message: () => "1 descriptor without",
    },
    { from: 5, to: 7, delivered: 1, thrown: UnexpectedEofError, message: inHeader(4) },
    { from: 8, to: 8, delivered: 1, thrown: UnexpectedEofError, message: inMeta(8, 1) },
    { from: 9, to: 9, delivered: 2 },
    { from: 10, to: 12, delivered: 2, thrown: UnexpectedEofError, message: inHeader(9) },
    { from: 13, to: 32, delivered: 2, thrown: UnexpectedEofError, message: inMeta(13, 20) },
    { from: 33, to: 33, delivered: 2, thrown: EmptyControlMessageError, message: bytesLeft(9) },
  ],
  "1": [
    { from: 0, to: 0, delivered: 0 },
    { from: 1, to: 3, delivered: 0, thrown: UnexpectedEofError, message: inHeader(0) },
    { from: 4, to: 4, delivered: 1 },
    { from: 5, to: 7, delivered: 1, thrown: UnexpectedEofError, message: inHeader(4) },
    { from: 8, to: 8, delivered: 1, thrown: UnexpectedEofError, message: inMeta(8, 1) },
    { from: 9, to: 33, delivered: 1, thrown: EmptyControlMessageError, message: bytesLeft(4) },
  ],
  "0": [
    { from: 0, to: 0, delivered: 0 },
    { from: 1, to: 3, delivered: 0, thrown: UnexpectedEofError, message: inHeader(0) },
    { from: 4, to: 33, delivered: 0, thrown: EmptyControlMessageError, message: bytesLeft(0) },
  ],
};

test(
  "receiveAllFrom() delivers the whole records of a cut stream, and throws",
  withPython,
  async (t) => {
    using files = new Files();
    const { data, files: paths } = message(files, threeRecords);
    for (const [descriptors, table] of Object.entries(endings)) {
      await t.step(`with ${descriptors} of its 3 descriptors`, async () => {
        const cuts = table.flatMap((ending) =>
          Array.from({ length: ending.to - ending.from + 1 }, (_, i) => ({
            cut: ending.from + i,
            ending,
          }))
        );
        // The table has every cut once.
        assertEquals(cuts.map(({ cut }) => cut), [
          ...Array(encode(threeRecords).length + 1).keys(),
        ]);
        await using peer = await PythonPeer.send(
          files.socket,
          cuts.map(({ cut }): Step[] =>
            cut === 0
              ? []
              : [{ data: data.slice(0, 2 * cut), files: paths.slice(0, Number(descriptors)) }]
          ),
        );
        for (const { cut, ending: { delivered, thrown, message } } of cuts) {
          using conn = await connect(files.socket);
          const received: Item[] = [];
          const receiving = receiveAllFrom(conn, (fd, meta) => note(received, fd, meta));
          if (thrown) await assertRejects(() => receiving, thrown, message!(cut), `cut at ${cut}`);
          else assertEquals(await receiving, delivered, `cut at ${cut}`);
          assertEquals(received, threeRecords.slice(0, delivered), `cut at ${cut}`);
          assertEquals(files.held(), 0, `cut at ${cut}`);
        }
        await peer.finished();
      });
    }
  },
);

test("receive() delivers no part of a record whose sender is killed", withPython, async () => {
  using files = new Files();
  const { data, files: paths } = message(files, threeRecords);
  await using peer = await PythonPeer.send(files.socket, [
    [{ data: data.slice(0, -2), files: paths }, { wait: "sent" }],
  ]);
  const received: Item[] = [];
  const receiving = assertRejects(
    () => receive(files.socket, (fd, meta) => note(received, fd, meta)),
    UnexpectedEofError,
    "after 19 of the 20 bytes",
  );
  await peer.next("sent");
  peer.kill();
  await receiving;
  assertEquals(received, threeRecords.slice(0, 2));
});

test("receiveAllFrom() ends well when the peer has left bytes unread", withPython, async () => {
  using files = new Files();
  await using peer = await PythonPeer.send(files.socket, [
    [message(files, threeRecords), { wait: "sent" }],
  ]);
  using conn = await connect(files.socket);
  await peer.next("sent");
  await conn.write(text("never read"));
  await peer.go();
  // Python has closed the connection: a read after the message fails with ECONNRESET.
  await peer.finished();
  assertEquals(await collect((note) => receiveAllFrom(conn, note)), threeRecords);
});
