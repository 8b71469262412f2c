/**
 * Descriptors 0, 1 and 2 as sockets: closing them leaves /dev/null.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { closeAll, dup, Fd, replace } from "../../ffi/fd.ts";
import { describeDescriptor } from "../../ffi/proc.ts";
import { listenerDescriptor } from "../../lib/native/descriptor.ts";
import { fdListener, listen, UnixListener } from "../../mod.ts";
import { here } from "../support/in_process.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

test("a descriptor 0, 1 or 2 that is adopted or closed becomes /dev/null: no later descriptor gets its number", () => {
  const raws = [0, 1, 2];
  const kept = raws.map((raw) => dup(raw));
  const restore = () => raws.forEach((raw) => replace(kept[raw], raw, { keptOnExec: true }));
  try {
    for (const raw of raws) {
      using directory = new Directory();
      const put = (fd: Fd) => replace(fd.raw, raw);
      using native = Deno.listen(here);
      using tcp = listenerDescriptor(native);
      put(tcp);
      const listener = fdListener(raw);
      assertEquals(describeDescriptor(raw), "/dev/null");
      listener.close();
      using unix = listen(directory.join("a.sock"));
      put(unix.fd);
      new UnixListener(new Fd(raw)).close();
      assertEquals(describeDescriptor(raw), "/dev/null");
      put(unix.fd);
      new Fd(raw).close();
      assertEquals(describeDescriptor(raw), "/dev/null");
      put(unix.fd);
      closeAll([raw]);
      assertEquals(describeDescriptor(raw), "/dev/null");
      using next = new Fd(dup(tcp.raw));
      assert(next.raw > 2);
    }
  } finally {
    restore();
    closeAll(kept);
  }
});
