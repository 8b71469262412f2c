/**
 * The clients of every load, against a server that loses requests: they count each lost request once.
 * (Deno's `fetch` and `node:http` silently repeat a request when a connection that they reuse is closed
 * without an answer; so does nginx, unless `proxy_next_upstream` is off.)
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { createSecureServer } from "node:http2";
import { Pool } from "undici";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { Load } from "./faults_load.ts";
import { freePort } from "../support/free_port.ts";
import { LosingServer } from "../programs/losing_server.ts";
import type { Batch, ClientClass, SoakClientOptions } from "./soak_client.ts";
import { succeeds } from "../support/succeeds.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

const here = { hostname: "127.0.0.1", port: 0 };
const data = new URL("../data/", import.meta.url);
const cert = Deno.readTextFileSync(new URL("localhost.crt", data));
const key = Deno.readTextFileSync(new URL("localhost.key", data));

/** The number of lost requests after which a test ends. */
const enough = 5;

test("the clients of the faults count every lost request", async () => {
  const listener = Deno.listen(here);
  await using server = new LosingServer(listener, () => "7");
  const load = new Load(listener.addr.port);
  await until(() => server.lost >= enough);
  await load.end();
  assertEquals(load.failures.length, server.lost);
  assertEquals(load.answered.get(7)?.count, server.answered);
});

test("undici without pipelining repeats no request: every lost one fails", async () => {
  const listener = Deno.listen(here);
  await using server = new LosingServer(listener, () => "");
  const pool = new Pool(`http://127.0.0.1:${listener.addr.port}`, {
    connections: 2,
    pipelining: 1,
  });
  let answered = 0;
  let failed = 0;
  const clients = Array.from({ length: 2 }, async () => {
    while (server.lost < enough) {
      try {
        await (await pool.request({ method: "GET", path: "/" })).body.dump();
        answered++;
      } catch {
        failed++;
      }
    }
  });
  await Promise.all(clients);
  await pool.close();
  assertEquals([answered, failed], [server.answered, server.lost]);
});

for (const name of ["busy", "mostly idle", "busy, TLS (undici)"] satisfies ClientClass[]) {
  test(`the clients of the soak count every lost request: ${name}`, async () => {
    const isTls = name.includes("TLS");
    const listener = isTls ? Deno.listenTls({ ...here, cert, key }) : Deno.listen(here);
    const { port } = listener.addr as Deno.NetAddr;
    await using server = new LosingServer(listener, (path) => path.slice(1));
    const options: SoakClientOptions = {
      ports: { http: port, https: port, path: "" },
      ca: cert,
      clients: { [name]: 3 },
      idleFor: 20,
      seed: 1,
    };
    await using clients = new Child("../system/soak_client.ts", [JSON.stringify(options)]);
    await until(() => server.lost >= enough);
    await clients.tell("that is enough");
    const batches: Batch[] = (await clients.ended()).stdout.map((line) => JSON.parse(line));
    assertEquals(batches.flatMap(({ failures }) => failures).length, server.lost);
    assertEquals(batches.flatMap(({ at }) => at).length, server.answered);
  });
}

const noHttp2 = await whyNoHttp2();
if (noHttp2) console.log(`load_test.ts: the HTTP/2 clients are not tested: ${noHttp2}`);

test("the HTTP/2 clients of the soak count every lost request", {
  ignore: noHttp2 !== undefined,
}, async () => {
  const rightAnswers = { "/fast": "fast", "/slow?ms=100": "slow", "/upload": "25000" };
  let answered = 0;
  let lost = 0;
  const server = createSecureServer({ cert, key });
  server.on("session", (session) => {
    let streams = 0;
    session.on("stream", (stream, headers) => {
      if (++streams === 1) {
        answered++;
        stream.respond({ ":status": 200 });
        const path = headers[":path"] as keyof typeof rightAnswers;
        stream.end(rightAnswers[path]);
      } else {
        lost++;
        session.destroy();
      }
    });
    // The destroyed sessions.
    session.on("error", () => {});
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  const options = { port, ca: cert, sessions: 1, streams: 1, answerGoaway: false, seed: 1 };
  {
    await using clients = new Child("../system/soak_http2.mjs", [JSON.stringify(options)], {
      command: "node",
    });
    await until(() => lost >= enough);
    await clients.tell("that is enough");
    const batches: Batch[] = (await clients.ended()).stdout.map((line) => JSON.parse(line));
    assertEquals(batches.flatMap(({ failures }) => failures).length, lost);
    assertEquals(batches.flatMap(({ at }) => at).length, answered);
    assertEquals(batches.filter(({ refused }) => refused > 0), []);
  }
  await new Promise((resolve) => server.close(resolve));
});

test("examples/restart.ts exits with 1 when a request is lost", async () => {
  const web = new URL("../programs/losing_server.ts", import.meta.url).pathname;
  const flags = ["--restarts", "1", "--seconds", "1", "--connections", "2", "--web", web];
  await using example = new Child("../../examples/restart.ts", flags);
  const { code, stdout, stderr } = await example.ended();
  const [, failed] = /^failed +([\d,]+)$/m.exec(stdout.join("\n")) ?? [];
  assertEquals(code, 1, stderr);
  // About half of all: on each connection the server answers one and loses one.
  const [, requests] = /^requests +([\d,]+)$/m.exec(stdout.join("\n")) ?? [];
  const [lost, all] = [failed, requests].map((count) => Number(count.replaceAll(",", "")));
  assert(lost > 0.4 * all, `${lost} of ${all} are lost`);
});

const nginx = await succeeds(["nginx", "-v"]);
if (!nginx) console.log("load_test.ts: nginx is not tested: it is not installed");

test(
  "nginx with the configuration of the example repeats no request",
  { ignore: !nginx },
  async () => {
    using directory = new Directory();
    const path = directory.join("app.sock");
    await using server = new LosingServer(Deno.listen({ transport: "unix", path }), () => "");
    const port = freePort();
    const config = Deno.readTextFileSync(
      new URL("../../examples/behind_nginx/nginx.conf", import.meta.url),
    );
    Deno.chmodSync(directory.path, 0o755);
    Deno.chmodSync(path, 0o666);
    Deno.writeTextFileSync(
      directory.join("nginx.conf"),
      config.replace("/tmp/app.sock", path).replace("127.0.0.1:8080", `127.0.0.1:${port}`),
    );
    const proxy = new Deno.Command("nginx", {
      args: ["-p", directory.path, "-c", directory.join("nginx.conf")],
      stderr: "null",
    }).spawn();
    try {
      const statuses: number[] = [];
      await until(async () => {
        try {
          using conn = await Deno.connect({ hostname: "127.0.0.1", port });
          await conn.write(
            new TextEncoder().encode("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
          );
          statuses.push(Number((await new Response(conn.readable).text()).split(" ")[1]));
        } catch (error) {
          if (!(error instanceof Deno.errors.ConnectionRefused)) throw error;
        }
        return server.lost >= enough;
      });
      assertEquals(statuses.filter((status) => status === 502).length, server.lost);
      assertEquals(statuses.filter((status) => status === 200).length, server.answered);
    } finally {
      proxy.kill("SIGTERM");
      await proxy.status;
    }
  },
);

/** The reason why HTTP/2 cannot be tested here; undefined when it can. */
async function whyNoHttp2(): Promise<string | undefined> {
  if (!await succeeds(["node", "--version"])) return "node is not installed";
  try {
    createSecureServer({ cert, key });
  } catch (error) {
    // Old versions of Deno have no HTTP/2 server.
    return (error as Error).message;
  }
}
