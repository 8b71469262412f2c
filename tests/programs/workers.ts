/**
 * A program whose workers and main thread use the library at the same time.
 *
 * @module
 */

import { ready } from "../../lib/event_loop/reactor.ts";
import { ifSocket } from "../../ffi/socket_options.ts";
import { localAddress } from "../../ffi/socket.ts";
import { denoRegistrations } from "../../lib/event_loop/registration.ts";
import { connect, receive, serveHttp } from "../../mod.ts";
import { adoptAgainAndAgain, type Adopted } from "../support/adopt_again.ts";
import { told } from "../support/child.ts";
import type { Task } from "./worker.ts";

const [scenario, path, ...more] = Deno.args;

/** A worker with a task, and its first message. */
class Thread<T> {
  readonly #worker = new Worker(new URL("./worker.ts", import.meta.url), {
    type: "module",
  });
  readonly answer: Promise<T>;

  constructor(task: Task) {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    this.answer = promise;
    this.#worker.onmessage = ({ data }) => resolve(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(event.message));
    };
    this.#worker.postMessage(task);
  }

  terminate(): void {
    this.#worker.terminate();
  }
}

/** Serves HTTP in a worker and in the main thread: both receive and adopt their listeners at the same time. */
async function serve(): Promise<void> {
  const worker = new Thread({ what: "serve", path });
  await receive(more[0], (fd) => {
    serveHttp(fd, () => new Response("from the main thread"));
  });
  await worker.answer;
  console.log("serving");
  await told().next();
  Deno.exit();
}

/** Has every thread adopt descriptors, while all connect to a native listener of the main thread. */
async function adopt(): Promise<void> {
  const [count, threads] = more.map(Number);
  using host = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = host.addr;
  const place = () =>
    denoRegistrations().filter(({ tfd }) => {
      const address = ifSocket(tfd, () => localAddress(tfd));
      return address && "port" in address && address.port === port;
    }).map(({ tfd, events, data }) => ({ tfd, events, data: String(data) }));
  let answered = 0;
  (async () => {
    for await (const conn of host) {
      await conn.write(new Uint8Array(1));
      conn.close();
      answered++;
    }
  })();
  const before = place();
  const workers = Array.from(
    { length: threads },
    () => new Thread<Adopted>({ what: "adopt", path, port, count }),
  );
  const all = await Promise.all([
    ...workers.map(({ answer }) => answer),
    adoptAgainAndAgain(count, port, path),
  ]);
  const after = place();
  const elsewhere = all.slice(0, threads).flatMap(({ watched }) => watched);
  console.log(JSON.stringify({
    adopted: all.map(({ adopted }) => adopted),
    answered,
    before,
    after,
    watchedElsewhere: before.filter(({ tfd }) => elsewhere.includes(tfd)),
  }));
  for (const worker of workers) worker.terminate();
}

/** Terminates a worker that waits; nothing keeps the process after that. */
async function terminate(): Promise<void> {
  const worker = new Thread({ what: more[0] as Task["what"], path });
  await worker.answer;
  worker.terminate();
  console.log("terminated");
  if (more[1] === "exit") Deno.exit(7);
  if (more[0] !== "accept") return;
  // The worker's socket stays open and accepts nothing; the main thread is still woken for its own descriptors.
  using conn = await connect(path);
  await ready(conn.fd.raw, "writable");
  console.log("connected");
}

/** Terminates many workers, each of which waits without end on a thread of Deno's pool. */
async function terminateMany(): Promise<void> {
  const workers = Array.from(
    { length: Number(more[0]) },
    (_, i) => new Thread({ what: "accept", path: `${path}/${i}.sock` }),
  );
  for (const worker of workers) await worker.answer;
  for (const worker of workers) worker.terminate();
  console.log(`terminated ${workers.length}`);
}

const scenarios: Record<string, () => Promise<void>> = { serve, adopt, terminate, terminateMany };
await scenarios[scenario]();
