/**
 * Clients and proxies of HTTP/1.0 that keep their connections, while one generation takes over from another.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { freePort, reachable } from "../support/free_port.ts";
import { until } from "../support/until.ts";
import { test } from "../support/guard.ts";

/** A proxy between the clients and the service. */
interface Proxy {
  program: string;
  version: string;
  config(port: number, upstream: number, directory: string): string;
  args(config: string, directory: string): string[];
}

/** Neither may try again: a request that the service loses has to show. */
const proxies: Proxy[] = [{
  program: "nginx",
  version: "-v",
  config: (port, upstream, directory) => `
    daemon off;
    worker_processes 1;
    error_log ${directory}/error.log;
    pid ${directory}/nginx.pid;
    events {}
    http {
      access_log off;
      client_body_temp_path ${directory}/body;
      proxy_temp_path ${directory}/proxy;
      fastcgi_temp_path ${directory}/fastcgi;
      uwsgi_temp_path ${directory}/uwsgi;
      scgi_temp_path ${directory}/scgi;
      upstream service { server 127.0.0.1:${upstream}; keepalive 8; }
      server {
        listen 127.0.0.1:${port};
        location / {
          proxy_pass http://service;
          proxy_http_version 1.0;
          proxy_set_header Connection keep-alive;
          proxy_next_upstream off;
        }
      }
    }`,
  args: (config, directory) => ["-p", directory, "-c", config],
}, {
  program: "haproxy",
  version: "-v",
  // What a client of HTTP/1.0 asks for is passed on as HTTP/1.0.
  config: (port, upstream) => `
    defaults
      mode http
      timeout connect 5s
      timeout client 30s
      timeout server 30s
      retries 0
      http-reuse safe
    frontend clients
      bind 127.0.0.1:${port}
      default_backend service
    backend service
      server one 127.0.0.1:${upstream}
`,
  args: (config) => ["-db", "-f", config],
}];

/** Whether a program can be run; says so when it cannot. */
function isHere(program: string, version: string): boolean {
  try {
    const command = new Deno.Command(program, { args: [version], stdout: "null", stderr: "null" });
    if (command.outputSync().success) return true;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  console.log(`http10_test.ts: what needs ${program} is skipped: it cannot be run here`);
  return false;
}

const hasAb = isHere("ab", "-V");

/** Runs ab for some seconds; gives what it reports. */
async function loaded(port: number, seconds: number): Promise<string> {
  const url = `http://127.0.0.1:${port}/`;
  const args = ["-k", "-q", "-r", "-c", "8", "-t", String(seconds), "-n", "10000000", url];
  const { stdout, stderr } = await new Deno.Command("ab", { args }).output();
  return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
}

/** The rest of the next line that begins so. */
async function line(child: Child, beginning: string): Promise<string> {
  for (;;) {
    const said = await child.line();
    if (said.startsWith(beginning)) return said.slice(beginning.length);
  }
}

/** How many connections a generation has. */
async function connections(generation: Child): Promise<number> {
  await generation.tell("status");
  return JSON.parse(await line(generation, "status: ")).sockets[0].connections;
}

/** Replaces a generation under the load of ab, through a proxy if there is one. */
async function replaceUnderLoad(proxy?: Proxy): Promise<void> {
  using directory = new Directory();
  // A client that has not left by the deadline is hung up on, and loses a request.
  const args = [directory.join("app.sock"), "--drainTimeout", "1500"];
  await using first = new Child("./generation.ts", args);
  const upstream = Number(await line(first, "port: "));
  await line(first, "serving: 1");
  await using between = proxy && startProxy(proxy, upstream, directory);
  const port = between?.port ?? upstream;
  await until(() => reachable(port));
  const loading = loaded(port, 4);
  await until(async () => await connections(first) > 0);
  await using next = new Child("./generation.ts", args);
  await line(next, "serving: 2");
  await line(first, "finished");
  const report = await loading;
  assertMatch(report, /^Complete requests: +[1-9]\d{2}/m, report);
  assertMatch(report, /^Failed requests: +0$/m, report);
  assert(!report.includes("Non-2xx"), report);
  Deno.kill(next.pid, "SIGTERM");
  assertEquals((await next.ended()).code, 0);
}

/** Runs a proxy in front of the service, to the end of the block. */
function startProxy(
  proxy: Proxy,
  upstream: number,
  directory: Directory,
): AsyncDisposable & { port: number } {
  const port = freePort();
  const config = directory.join("proxy.conf");
  // The workers of nginx are another user's.
  Deno.chmodSync(directory.path, 0o755);
  Deno.writeTextFileSync(config, proxy.config(port, upstream, directory.path));
  const process = new Deno.Command(proxy.program, {
    args: proxy.args(config, directory.path),
    stdout: "null",
    stderr: "null",
  }).spawn();
  return {
    port,
    async [Symbol.asyncDispose]() {
      process.kill("SIGTERM");
      await process.status;
    },
  };
}

test("ab -k, a client of HTTP/1.0, loses no request when a generation takes over", {
  ignore: !hasAb,
}, () => replaceUnderLoad());

for (const proxy of proxies) {
  const ignore = !hasAb || !isHere(proxy.program, proxy.version);
  test(
    `${proxy.program} with HTTP/1.0 to the service loses no request when a generation takes over`,
    { ignore },
    () => replaceUnderLoad(proxy),
  );
}
