/**
 * A process with workers that use the library, as its main thread does.
 *
 * @module
 */

import { ready } from "../../ffi/poll.ts";
import { ifSocket, localAddress } from "../../ffi/socket.ts";
import { denoRegistrations } from "../../lib/event_loop/registration.ts";
import { connect, receive, serveHttp } from "../../mod.ts";
import { adoptAgainAndAgain, type Adopted } from "./adopt_again.ts";
import { told } from "./child.ts";
import type { Task } from "../programs/worker.ts";

const [scenario, path, ...more] = Deno.args;

/** A worker that was told what to do, and the first thing it answers. */
class Thread<T> {
  readonly #worker = new Worker(new URL("../programs/worker.ts", import.meta.url), {
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

/** One HTTP service in a worker and one in the main thread, received and adopted at the same time. */
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

/** Every thread adopts, while the main one has a native listener that each of them talks to. */
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

/** A worker that waits is terminated, and nothing keeps the process. */
async function terminate(): Promise<void> {
  const worker = new Thread({ what: more[0] as Task["what"], path });
  await worker.answer;
  worker.terminate();
  console.log("terminated");
  if (more[1] === "exit") Deno.exit(7);
  if (more[0] !== "accept") return;
  // Its socket is open, with nobody to accept; what this thread waits for is announced as before.
  using conn = await connect(path);
  await ready(conn.fd.raw, "writable");
  console.log("connected");
}

/** Each has a thread of Deno's pool, which waits for ever. */
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
