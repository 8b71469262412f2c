/**
 * `unit_service.ts`, a service that a service manager starts.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { pathStatus } from "../../ffi/file.ts";
import { activated } from "./activation.ts";
import { cli } from "./cli.ts";
import type { Directory } from "./directory.ts";
import { Generations } from "./generations.ts";
import { askOnce } from "./http1_client.ts";
import { until } from "./until.ts";

/** An address of TCP. */
export function tcp(port: number, hostname = "127.0.0.1"): Deno.NetAddr {
  return { transport: "tcp", hostname, port };
}

/** A service that is started with descriptors. */
export class Service extends Generations {
  readonly control: string;

  constructor(directory: Directory, descriptors: string[], args: string[]) {
    const control = directory.join("control.sock");
    super("./unit_service.ts", [control, ...args], { through: activated(...descriptors) });
    this.control = control;
  }

  /** Waits for a generation; returns its PID. */
  async serving(generation = 1): Promise<number> {
    const line = await this.until(new RegExp(`^serving: ${generation} `));
    return Number(line.split(" ")[2]);
  }

  /** Restarts; returns the PID of the next generation, when its predecessor has ended. */
  async restarted(generation: number): Promise<number> {
    const { code, stderr } = await cli("restart", this.control);
    assertEquals([code, stderr], [0, ""]);
    const pid = await this.serving(generation);
    await this.until(`finished: ${generation - 1}`);
    return pid;
  }

  async stopped(): Promise<void> {
    assertEquals((await cli("stop", this.control)).code, 0);
    await until(() => pathStatus(this.control) === undefined);
  }
}

/** The generation and the name in the answer of a server. */
export async function asked(addr: Deno.Addr): Promise<string> {
  const [generation, , name] = (await askOnce(addr)).body.split(" ");
  return name ? `${generation} ${name}` : generation;
}
