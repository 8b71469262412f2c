import { assert, assertEquals } from "@std/assert";
import { Child } from "../support/child.ts";
import { Directory } from "../support/directory.ts";
import { fromClient, fromServer, total } from "../support/stream.ts";
import { test } from "../support/guard.ts";

for (const kind of ["TCP", "unix"]) {
  test(`a ${kind} connection moves twice in mid-stream, and loses or repeats no byte`, async () => {
    using directory = new Directory();
    const path = kind === "unix" ? [directory.join("service.sock")] : [];
    const [second, third] = ["second.sock", "third.sock"].map((name) => directory.join(name));
    await using b = new Child("./move_connection.ts", [second, third, "6000000"]);
    await using c = new Child("./move_connection.ts", [third, "end", "0"]);
    assertEquals([await b.line(), await c.line()], ["ready", "ready"]);
    await using a = new Child("./move_connection.ts", ["listen", second, "3000000", ...path]);
    using conn = await Deno.connect(JSON.parse(await a.line()));
    const sending = (async () => {
      for (let sent = 0; sent < total;) {
        const length = Math.min(50_021, total - sent);
        sent += await conn.write(Uint8Array.from({ length }, (_, i) => fromClient(sent + i)));
      }
      await conn.closeWrite();
    })();
    let received = 0;
    const buffer = new Uint8Array(65_536);
    for (let n = await conn.read(buffer); n !== null; n = await conn.read(buffer)) {
      for (let i = 0; i < n; i++) {
        if (buffer[i] !== fromServer(received + i)) {
          throw new Error(`Wrong byte at ${received + i}`);
        }
      }
      received += n;
    }
    await sending;
    assertEquals(received, total);
    const reports = [];
    for (const child of [a, b, c]) {
      reports.push(JSON.parse(await child.line()));
      assertEquals((await child.ended()).code, 0);
    }
    assertEquals(reports[2], { read: total, written: total, unfinished: 0 });
    // The connection has moved in mid-stream: both directions were unfinished each time.
    for (const { read, written } of reports.slice(0, 2)) {
      assert(read > 0 && read < total && written > 0 && written < total, JSON.stringify(reports));
    }
  });
}
