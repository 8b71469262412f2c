/**
 * Waits often, with an alarm; prints how many of the waits it ended, and how often it rang when there was
 * nothing to wait for. Then ends by itself, though something is waited for that does not keep it running.
 *
 * @module
 */

import { Fd } from "../../ffi/fd.ts";
import { ready, useWaker, type Waker } from "../../lib/event_loop/reactor.ts";
import { socketPair, writeByte } from "../../ffi/socket.ts";
import { pause } from "../../lib/time.ts";
import { makeWaker } from "../../lib/event_loop/waker.ts";
import { UnixConn } from "../../mod.ts";

const [a, b] = socketPair();
const conn = new UnixConn(new Fd(a));
let made: boolean | undefined;
let rings = 0;

async function makeCounted(epoll: number): Promise<Waker | undefined> {
  const waker = await makeWaker(epoll);
  made = waker !== undefined;
  return waker && {
    async woken() {
      const rang = await waker.woken();
      if (rang) rings++;
      return rang;
    },
    keepAlive: (alive) => waker.keepAlive(alive),
    [Symbol.dispose]: () => waker[Symbol.dispose](),
  };
}

async function wait(times: number): Promise<void> {
  for (let i = 0; i < times; i++) {
    const reading = conn.read(new Uint8Array(1));
    await pause(0);
    writeByte(b);
    await reading;
  }
}

useWaker(makeCounted);
while (made === undefined) await wait(1);
// The first rings show that it works.
await wait(20);
const before = rings;
await wait(100);
const ended = rings - before;
await pause(100);
console.log(JSON.stringify({ made, ended, idle: rings - before - ended }));

ready(b, "readable", { keepsAlive: () => false });
