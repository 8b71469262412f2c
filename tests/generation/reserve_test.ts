/**
 * The descriptor that a generation keeps in reserve, for accept(2) at the limit of descriptors.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { closeAll, dup, isOpen } from "../../ffi/fd.ts";
import { libc } from "../../ffi/libc.ts";
import { openDescriptors } from "../../ffi/proc.ts";
import { Channel } from "../../lib/generation/channel.ts";
import { isOutOfDescriptors, Reserve } from "../../lib/generation/reserve.ts";
import { connect } from "../../mod.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { begin } from "../support/in_process.ts";
import { until } from "../support/until.ts";

/** <bits/socket_type.h> */
const SOCK_DGRAM = 2;

test("a reserve frees its number for the next open(2), and refill() takes one again when there is room", () => {
  const reserve = new Reserve();
  const before = dup(0);
  closeAll([before]);
  assertEquals(reserve.spend(), true);
  const got = dup(0);
  assert(got < before);
  assertEquals(reserve.spend(), false);
  reserve.refill();
  closeAll([got]);
  reserve.refill();
  assert(isOpen(before));
  reserve[Symbol.dispose]();
  reserve[Symbol.dispose]();
  assertEquals(reserve.spend(), false);
  for (const code of ["EMFILE", "ENFILE"]) assert(isOutOfDescriptors({ code }));
  for (const error of [{ code: "ENOMEM" }, new Error(), "EMFILE", null]) {
    assert(!isOutOfDescriptors(error));
  }
});

test("a reserve never throws: neither without a socket, nor after its number was closed", async () => {
  using directory = new Directory();
  const path = directory.join("app.sock");
  const before = new Set(openDescriptors());
  {
    using reserve = new Reserve();
    closeAll(openDescriptors().filter((raw) => !before.has(raw)));
    assertEquals(reserve.spend(), true);
  }
  const functions = libc();
  const { socket } = functions;
  const redefine = (value: typeof socket) => Object.defineProperty(functions, "socket", { value });
  let refused = 0;
  // EBADF in place of ENOBUFS and ENOMEM, which need a kernel that is out of memory.
  redefine((domain, type, protocol) => {
    if ((type & 0xf) !== SOCK_DGRAM) return socket(domain, type, protocol);
    refused++;
    return functions.close(-1);
  });
  try {
    const app = await begin(path);
    await app.ready();
    assertEquals(refused, 1);
    // The generation refills its reserve after each control connection.
    for (let i = 0; i < 2; i++) {
      using channel = new Channel(await connect(path));
      await channel.send({ type: "status" });
      assertEquals((await channel.receive())?.type, "report");
      await until(() => refused === i + 2);
    }
    assertEquals(app.status().state, "serving");
    await app.stop();
  } finally {
    redefine(socket);
  }
});
