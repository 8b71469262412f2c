/**
 * HTTP/1.0 clients and proxies that keep their connections alive, while one generation takes over from another.
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

/** Both are configured to never repeat a request, so that a lost one is counted. */
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
  // Forwards the requests of HTTP/1.0 clients as HTTP/1.0.
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

/** Whether a program is installed; prints a note if it is not. */
function isInstalled(program: string, version: string): boolean {
  try {
    const command = new Deno.Command(program, { args: [version], stdout: "null", stderr: "null" });
    if (command.outputSync().success) return true;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  console.log(`http10_test.ts: tests with ${program} are skipped: it is not installed`);
  return false;
}

const hasAb = isInstalled("ab", "-V");

/** Runs ab for some seconds; returns its report. */
async function runAb(port: number, seconds: number): Promise<string> {
  const url = `http://127.0.0.1:${port}/`;
  const args = ["-k", "-q", "-r", "-c", "8", "-t", String(seconds), "-n", "10000000", url];
  const { stdout, stderr } = await new Deno.Command("ab", { args }).output();
  return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
}

/** Reads lines until one begins with `beginning`; returns the rest of that line. */
async function lineAfter(child: Child, beginning: string): Promise<string> {
  for (;;) {
    const line = await child.line();
    if (line.startsWith(beginning)) return line.slice(beginning.length);
  }
}

/** The number of connections of a generation. */
async function connections(generation: Child): Promise<number> {
  await generation.tell("status");
  return JSON.parse(await lineAfter(generation, "status: ")).sockets[0].connections;
}

/** Starts the next generation under the load of ab, through a proxy if one is given. */
async function replaceUnderLoad(proxy?: Proxy): Promise<void> {
  using directory = new Directory();
  // A client that has not closed its connection after that is hung up on, and may lose a request.
  const args = [directory.join("app.sock"), "--drainTimeout", "1500"];
  await using first = new Child("./generation.ts", args);
  const upstream = Number(await lineAfter(first, "port: "));
  await lineAfter(first, "serving: 1");
  await using running = proxy && startProxy(proxy, upstream, directory);
  const port = running?.port ?? upstream;
  await until(() => reachable(port));
  const loading = runAb(port, 4);
  await until(async () => await connections(first) > 0);
  await using next = new Child("./generation.ts", args);
  await lineAfter(next, "serving: 2");
  await lineAfter(first, "finished");
  const report = await loading;
  assertMatch(report, /^Complete requests: +[1-9]\d{2}/m, report);
  assertMatch(report, /^Failed requests: +0$/m, report);
  assert(!report.includes("Non-2xx"), report);
  Deno.kill(next.pid, "SIGTERM");
  assertEquals((await next.ended()).code, 0);
}

/** Runs a proxy in front of the service; the end of the block stops it. */
function startProxy(
  proxy: Proxy,
  upstream: number,
  directory: Directory,
): AsyncDisposable & { port: number } {
  const port = freePort();
  const config = directory.join("proxy.conf");
  // The workers of nginx run as another user.
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

test("ab -k, an HTTP/1.0 client, loses no request when the next generation takes over", {
  ignore: !hasAb,
}, () => replaceUnderLoad());

for (const proxy of proxies) {
  const ignore = !hasAb || !isInstalled(proxy.program, proxy.version);
  test(
    `${proxy.program}, an HTTP/1.0 proxy, loses no request when the next generation takes over`,
    { ignore },
    () => replaceUnderLoad(proxy),
  );
}
