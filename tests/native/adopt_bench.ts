/**
 * The cost of adopting: requests a second of an adopted server and of a native one, and the time to adopt,
 * with few and with many open descriptors.
 *
 * @module
 */

import { dup } from "../../ffi/fd.ts";
import { socketPair } from "../../ffi/socket.ts";
import { fdConn, fdListener } from "../../mod.ts";
import { connectedTo, listenLoopback } from "../support/loopback.ts";
import { hasWrk, requestsPerSecond, spread } from "../support/wrk.ts";

/** How often each server is loaded, in turns. */
const pairs = 9;

if (!hasWrk) console.log("Requests a second are not measured: wrk is not installed");

Deno.bench({
  name: "requests a second, adopted over native",
  ignore: !hasWrk,
  n: 1,
  warmup: 0,
  async fn() {
    const [native, adopted] = await Promise.all([start("native"), start("adopted")]);
    const ratios: number[] = [];
    const rates: Record<string, number[]> = { native: [], adopted: [] };
    try {
      for (const { port } of [native, adopted]) await requestsPerSecond(port);
      for (let i = 0; i < pairs; i++) {
        // The order changes: neither server always has the better turn.
        const order = i % 2 === 0 ? [native, adopted] : [adopted, native];
        for (const { name, port } of order) rates[name].push(await requestsPerSecond(port));
        ratios.push(rates.adopted[i] / rates.native[i]);
      }
    } finally {
      for (const { child } of [native, adopted]) child.kill("SIGKILL");
    }
    console.log(`\n${pairs} pairs, wrk with 64 connections:`);
    console.log(`  native   ${spread(rates.native, 0)} requests a second`);
    console.log(`  adopted  ${spread(rates.adopted, 0)}`);
    console.log(`  ratio    ${spread(ratios, 3)}`);
  },
});

Deno.bench({
  name: "time to adopt, by open descriptors",
  n: 1,
  warmup: 0,
  async fn() {
    const others: Deno.Listener[] = [];
    console.log("\nmedian (lowest ... highest) in microseconds of 300:");
    for (const open of [10, 1000, 10_000]) {
      while (others.length < open) {
        others.push(Deno.listen({ transport: "unix", path: `\0bench-${crypto.randomUUID()}` }));
      }
      const { raw: listening, port } = listenLoopback();
      const [a] = socketPair();
      using tcp = connectedTo("127.0.0.1", port);
      const listeners: number[] = [];
      const conns: number[] = [];
      const tcpConns: number[] = [];
      for (let i = 0; i < 300; i++) {
        listeners.push(await microseconds(() => Promise.resolve(fdListener(dup(listening)))));
        conns.push(await microseconds(() => fdConn(dup(a))));
        tcpConns.push(await microseconds(() => fdConn(tcp.dup())));
      }
      console.log(
        `  ${String(open).padStart(6)} open: a listener ${spread(listeners, 0)}, ` +
          `a unix connection ${spread(conns, 0)}, a TCP connection ${spread(tcpConns, 0)}`,
      );
    }
    for (const listener of others) listener.close();
  },
});

async function microseconds(adopt: () => Promise<{ close(): void }>): Promise<number> {
  const from = performance.now();
  const adopted = await adopt();
  const took = performance.now() - from;
  adopted.close();
  return took * 1000;
}

interface Server {
  name: string;
  port: number;
  child: Deno.ChildProcess;
}

async function start(name: string): Promise<Server> {
  const script = new URL("../programs/hello.ts", import.meta.url).pathname;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", script, name],
    stdout: "piped",
  }).spawn();
  const lines = child.stdout.getReader();
  const { value } = await lines.read();
  lines.releaseLock();
  return { name, port: Number(new TextDecoder().decode(value)), child };
}
