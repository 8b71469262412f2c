/**
 * Two services in one process, and the sockets of the service manager: it does not tell which socket is whose.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { hasPython } from "../support/activation.ts";
import { Directory } from "../support/directory.ts";
import { freePort } from "../support/free_port.ts";
import { test } from "../support/guard.ts";
import { ManagedService } from "../support/managed_service.ts";
import { askOnce } from "../support/http1_client.ts";
import { tcp } from "../support/unit_service.ts";

const ignore = !hasPython;
if (ignore) {
  console.log("services_of_a_process_test.ts: without python3, there is no service manager");
}

async function answers(ports: number[]): Promise<string[]> {
  return await Promise.all(ports.map(async (port) => (await askOnce(tcp(port))).body));
}

test("after kill -9 each of two services in one process has its own stored socket again", {
  ignore,
}, async () => {
  using directory = new Directory();
  const ports = [freePort(), freePort()];
  const args = [directory.join("second.sock"), ...ports.map(String)];
  await using service = new ManagedService(directory, args, { program: "two_services.ts" });
  let pid = await service.serving();
  while (service.of(pid, "FDSTORE=1").length < 2) await service.until(/^notify: /);
  for (let i = 0; i < 3; i++) {
    Deno.kill(pid, "SIGKILL");
    await service.until(`ended: ${pid} -9`);
    await service.tell("start");
    pid = await service.serving();
    assertEquals(await answers(ports), ["0", "1"]);
    while (service.of(pid, "STATUS=").length < 2) await service.until(/^notify: /);
    // The store stays as it is.
    assertEquals(service.told.at(-1)!.store.length, 2);
    assertEquals(service.of(pid, "FDSTORE"), []);
  }
});

test("each of two services in one process takes the socket of a socket unit that it asks for", {
  ignore,
}, async () => {
  using directory = new Directory();
  const ports = [freePort(), freePort()];
  const args = [directory.join("second.sock"), ...ports.map(String)];
  const manager = ports.flatMap((port) => ["--socket", `tcp:127.0.0.1:${port}=app.socket`]);
  const options = { program: "two_services.ts", manager };
  await using service = new ManagedService(directory, args, options);
  const pid = await service.serving();
  assertEquals(await answers(ports), ["0", "1"]);
  assertEquals(service.of(pid, "FDSTORE"), []);
});
