/**
 * The programs that are restarted unchanged: those of `tests/programs/unchanged`, and how each is started.
 *
 * @module
 */

import { errorOf } from "../support/deno_versions.ts";
import { programPath } from "../support/child.ts";

/** A program, and how it is started. */
export interface Program {
  /** The name in the table. */
  name: string;
  /** The file in `tests/programs/unchanged`. */
  file: string;
  /** The clients. "admin": HTTP on a port and on a unix path. */
  clients: "http" | "https" | "admin" | "echo" | "websocket";
  /** How it is made restartable. @default "preload" */
  by?: "preload" | "cli.ts serve" | "DENO_AUTO_SERVE";
  /** Whether it answers `/slow`, after 200 ms. */
  hasSlow?: boolean;
  /** Whether its server is one of node: Deno 2.8 and later have what that takes. */
  isNode?: boolean;
  /** The lines that it prints to stderr itself, or Deno does for it. */
  prints?: RegExp;
}

const servePrints = /^deno serve: Listening on .*\n/gm;

/** All programs, in the order of the table. */
export const programs: Program[] = [
  { name: "`Deno.serve`, three lines", file: "three_lines.ts", clients: "http" },
  { name: "Hono", file: "hono.js", clients: "http", hasSlow: true },
  {
    name: "h3",
    file: "h3.js",
    clients: "http",
    hasSlow: true,
    // deno-lint-ignore no-control-regex -- colors
    prints: /\r(Stopping server gracefully .*\x1b\[2K\r)?Server closed successfully\.\n/g,
  },
  {
    name: "`export default { fetch }`, by `cli.ts serve`",
    file: "export_default.ts",
    clients: "http",
    by: "cli.ts serve",
    hasSlow: true,
    prints: servePrints,
  },
  {
    name: "the same with `DENO_AUTO_SERVE=1`",
    file: "export_default.ts",
    clients: "http",
    by: "DENO_AUTO_SERVE",
    hasSlow: true,
    prints: servePrints,
  },
  {
    name: "`Deno.serve`, after a start of 800 ms",
    file: "slow_start.ts",
    clients: "http",
    hasSlow: true,
  },
  {
    name: "`Deno.serve`, its own handler of SIGTERM",
    file: "own_sigterm_deno.ts",
    clients: "http",
    hasSlow: true,
  },
  {
    name: "`Deno.serve`, and an admin unix socket",
    file: "admin_deno.ts",
    clients: "admin",
    hasSlow: true,
  },
  { name: "`Deno.serve`, HTTPS", file: "deno_https.ts", clients: "https", hasSlow: true },
  { name: "TCP, `Deno.listen`", file: "echo_deno.ts", clients: "echo" },
  { name: "`Deno.upgradeWebSocket`", file: "websocket_deno.ts", clients: "websocket" },
  { name: "`node:http`", file: "node_http.ts", clients: "http", hasSlow: true, isNode: true },
  { name: "Express", file: "express.js", clients: "http", hasSlow: true, isNode: true },
  { name: "Fastify", file: "fastify.js", clients: "http", hasSlow: true, isNode: true },
  { name: "Koa", file: "koa.js", clients: "http", hasSlow: true, isNode: true },
  {
    name: "Hono, `@hono/node-server`",
    file: "hono_node_server.js",
    clients: "http",
    hasSlow: true,
    isNode: true,
  },
  {
    name: "`node:http`, its own handler of SIGTERM",
    file: "own_sigterm_node.ts",
    clients: "http",
    hasSlow: true,
    isNode: true,
  },
  {
    name: "`node:http`, and an admin unix socket",
    file: "admin_node.ts",
    clients: "admin",
    hasSlow: true,
    isNode: true,
  },
  { name: "`node:https`", file: "node_https.ts", clients: "https", hasSlow: true, isNode: true },
  { name: "TCP, `node:net`", file: "echo_node.ts", clients: "echo", isNode: true },
  { name: "WebSockets of `npm:ws`", file: "websocket_ws.js", clients: "websocket", isNode: true },
];

/** The program of a file. */
export function programOf(file: string): Program {
  const found = programs.find((program) => program.file === file);
  if (!found) throw new Error(`${file} is none of the programs`);
  return found;
}

/** The path of a program, as {@linkcode programPath} takes it. */
export function fileOf({ file }: Program): string {
  return `./unchanged/${file}`;
}

/** Downloads what a program imports; gives the reason if that fails. */
export async function whyNotCached(program: Program): Promise<string | undefined> {
  if (!program.file.endsWith(".js")) return undefined;
  return await errorOf(Deno.execPath(), "cache", "--quiet", programPath(fileOf(program)));
}
