/**
 * The checks "preload": programs of `tests/programs/unchanged`, each of which is restarted once.
 *
 * @module
 */

import { RawWebSocket, textOf } from "../support/raw_websocket.ts";
import { succeeds } from "../support/succeeds.ts";
import { type Kind, Limit } from "./matrix_kind.ts";
import { dialTcp, dialUnix, expect, get, sendText } from "./matrix_use.ts";
import { programOf } from "./programs_list.ts";
import { ProgramService } from "./programs_service.ts";
import { eventually } from "./faults_service.ts";

/** Uses a program; gives what it answers, in which its process is named. */
type Use = (service: ProgramService) => Promise<string>;

/** The checks of unchanged programs, in the order of the table. */
export const kindsPreload: Kind[] = [
  restarted("`Deno.serve`", "three_lines.ts", ask),
  restarted("`export default { fetch }`", "export_default.ts", ask),
  restarted("`Deno.serve`, unix path", "admin_deno.ts", askAdmin),
  restarted("TCP, `Deno.listen`", "echo_deno.ts", talk),
  {
    kind: "`Deno.upgradeWebSocket`",
    direction: "preload",
    async run() {
      await using service = await started("websocket_deno.ts");
      const pid = pidIn(await answered(service, ask));
      using socket = await RawWebSocket.connect(service.port, "/?id=1");
      await socket.send("ping");
      expect(textOf((await socket.next())!), `${pid} ping`);
      const restart = service.restart(pid, "SIGHUP");
      const { code } = await socket.rest();
      expect(code, 1012);
      await socket.sendClose(1012);
      await restart;
      const next = pidIn(await ask(service));
      expect(next !== pid, true);
      await service.stop(next);
      return `process ${pid}, Close 1012, process ${next}`;
    },
  },
  restarted("`node:http`", "node_http.ts", ask, nodeLimit),
  restarted("`node:http`, unix path", "admin_node.ts", askAdmin, nodePathLimit),
  restarted("TCP, `node:net`", "echo_node.ts", talk, nodeLimit),
];

/** A program that is used before and after a restart. */
function restarted(kind: string, file: string, use: Use, limit = () => {}): Kind {
  return {
    kind,
    direction: "preload",
    async run() {
      limit();
      await using service = await started(file);
      const pid = pidIn(await answered(service, use));
      await service.restart(pid, "SIGHUP");
      const next = pidIn(await use(service));
      expect(next !== pid, true);
      await service.stop(next);
      return `process ${pid}, then ${next}`;
    },
  };
}

async function started(file: string): Promise<ProgramService> {
  preloadLimit();
  if (!await succeeds([Deno.execPath(), "--version"])) {
    throw new Limit("under the emulator a process cannot start another one");
  }
  return new ProgramService(programOf(file));
}

function preloadLimit(): void {
  if (isBefore(2, 4)) throw new Limit("Deno has `--preload` from 2.4 on");
}

function nodeLimit(): void {
  preloadLimit();
  if (isBefore(2, 8)) {
    throw new Limit("servers of node take a listener of another process from Deno 2.8 on");
  }
}

function nodePathLimit(): void {
  nodeLimit();
  if (isBefore(2, 8, 3)) {
    throw new Limit("servers of node take one at a unix path from Deno 2.8.3 on");
  }
}

function isBefore(...version: number[]): boolean {
  const own = Deno.version.deno.split(".").map(Number);
  const at = version.findIndex((number, i) => own[i] !== number);
  return at >= 0 && own[at] < version[at];
}

/** Uses a program that is starting. */
async function answered(service: ProgramService, use: Use): Promise<string> {
  return await eventually("the program answers", async () => {
    service.checkRunning();
    try {
      return await use(service);
    } catch (error) {
      const { ConnectionRefused, NotFound } = Deno.errors;
      if (error instanceof ConnectionRefused || error instanceof NotFound) return undefined;
      throw error;
    }
  });
}

async function ask({ port }: ProgramService): Promise<string> {
  return await get(dialTcp(port));
}

async function askAdmin({ admin }: ProgramService): Promise<string> {
  return await get(dialUnix(admin));
}

async function talk({ port }: ProgramService): Promise<string> {
  using conn = await dialTcp(port)();
  const greeting = new Uint8Array(100);
  const n = await conn.read(greeting);
  await sendText(conn, conn, "ping");
  return new TextDecoder().decode(greeting.subarray(0, n ?? 0));
}

function pidIn(answer: string): number {
  const pid = Number(/process (\d+)/.exec(answer)?.[1]);
  if (!pid) throw new Error(`The answer names no process: ${JSON.stringify(answer)}`);
  return pid;
}
