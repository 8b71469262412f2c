import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { HandoverError, UnexpectedEofError } from "../../mod.ts";
import { Channel } from "../../lib/generation/channel.ts";
import { connectedPair, Sockets } from "../support/raw.ts";
import { test } from "../support/guard.ts";

function channels(): [Channel, Channel] {
  const [a, b] = connectedPair();
  return [new Channel(a), new Channel(b)];
}

test("frames, bytes and descriptors arrive in the order in which they were sent", async () => {
  using sockets = new Sockets(300);
  const [a, b] = channels();
  const state = new Uint8Array(100_000).map((_, i) => i * 7);
  const metas = [Uint8Array.of(1, 2, 3), new Uint8Array(50_000).fill(9)];
  const sending = Promise.all([
    a.send({ type: "withdrawn" }, { state: [state] }),
    a.send({ type: "healthy" }, { descriptors: sockets.raws.map((fd) => ({ fd })) }),
    a.send(
      { type: "moved", name: "x" },
      { descriptors: metas.map((meta, i) => ({ fd: sockets.raws[i], meta })) },
    ),
    a.send({ type: "stop" }),
  ]);
  assertEquals(await b.receive(), { type: "withdrawn" });
  assertEquals(await b.receiveState([state.length]), [{ bytes: state, at: 0 }]);
  assertEquals(await b.receive(), { type: "healthy" });
  const first = await b.receiveDescriptors(300);
  assertEquals(first.map(({ fd }) => Sockets.cookie(fd.raw)), sockets.cookies);
  assertEquals(await b.receive(), { type: "moved", name: "x" });
  const second = await b.receiveDescriptors(2);
  assertEquals(second.map(({ meta }) => meta), metas);
  assertEquals(await b.receive(), { type: "stop" });
  await sending;
  for (const { fd } of [...first, ...second]) fd.close();
  a[Symbol.dispose]();
  assertEquals(await b.receive(), undefined);
  b[Symbol.dispose]();
});

test("receive() that ends by its timeout or signal loses no frame", async () => {
  const [a, b] = channels();
  const error = await assertRejects(() => b.receive({ timeout: 1 }), HandoverError, "for 1 ms");
  assertEquals(error.code, "ERR_HANDOVER_TIMEOUT");
  const controller = new AbortController();
  const waiting = b.receive({ signal: controller.signal });
  const reason = new Error("enough");
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => waiting), reason);
  await a.send({ type: "stop" });
  await a.send({ type: "restart" });
  assertEquals(await b.receive({ timeout: 1e9 }), { type: "stop" });
  assertEquals(await b.receive(), { type: "restart" });
  for (const channel of [a, b]) channel[Symbol.dispose]();
});

test("receive() returns undefined when the sender ends inside a frame", async () => {
  for (
    const part of [Uint8Array.of(9), Uint8Array.of(9, 0, 0, 0), Uint8Array.of(9, 0, 0, 0, 0x7b)]
  ) {
    const [a, b] = channels();
    await a.conn.write(part);
    a[Symbol.dispose]();
    assertEquals(await b.receive(), undefined);
    b[Symbol.dispose]();
  }
});

test("receive() rejects once for an invalid frame, and then returns the next frame", async () => {
  const [a, b] = channels();
  await a.conn.write(Uint8Array.of(2, 0, 0, 0, 0x7b, 0x7b));
  await assertRejects(() => b.receive(), HandoverError, "not JSON");
  await a.send({ type: "stop" });
  assertEquals(await b.receive(), { type: "stop" });
  for (const channel of [a, b]) channel[Symbol.dispose]();
});

test("receiveDescriptors() closes the received descriptors when the sender ends before all have arrived", async () => {
  using sockets = new Sockets(2);
  const [a, b] = channels();
  await a.send({ type: "stop" }, { descriptors: sockets.raws.map((fd) => ({ fd })) });
  a[Symbol.dispose]();
  assertEquals(await b.receive(), { type: "stop" });
  await assertRejects(() => b.receiveDescriptors(3), UnexpectedEofError, "2 of 3 descriptors");
  assertEquals(sockets.others(), []);
  b[Symbol.dispose]();
});

test("send() takes more descriptors than arguments fit on the stack", async () => {
  using sockets = new Sockets(1);
  const [a, b] = channels();
  const [fd] = sockets.raws;
  const sending = assertRejects(
    () => a.send({ type: "stop" }, { descriptors: Array(500_000).fill({ fd }) }),
    Deno.errors.BrokenPipe,
  );
  // The frame goes before the descriptors: send() is writing them now.
  assertEquals(await b.receive(), { type: "stop" });
  b[Symbol.dispose]();
  await sending;
  a[Symbol.dispose]();
});

test("receiveState() returns states of every length as they were sent", async () => {
  const [a, b] = channels();
  const lengths = [0, 1, 70_000, 0, 65_535, 1, 1, 65_536, ...Array(1000).fill(100), 0];
  const state = lengths.map((length, i) => new Uint8Array(length).fill(i));
  const sending = a.send({ type: "stop" }, { state });
  assertEquals(await b.receive(), { type: "stop" });
  const received = await b.receiveState(lengths);
  await sending;
  const each = received.map(({ bytes, at }, i) => bytes.subarray(at, at + lengths[i]));
  assertEquals(each, state);
  await a.send({ type: "withdrawn" });
  assertEquals(await b.receive(), { type: "withdrawn" });
  for (const channel of [a, b]) channel[Symbol.dispose]();
});
