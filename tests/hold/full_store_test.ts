/**
 * A service that stores more descriptors than hold may have open.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { succeeds } from "../support/succeeds.ts";
import { Held } from "./held.ts";

const noPython = !await succeeds(["python3", "--version"]);
if (noPython) console.log("hold/full_store_test.ts: python3 is not installed: it is not tested");

const script = `
import os, signal, socket
signal.signal(signal.SIGTERM, lambda *_: os._exit(6))
def notify(text, descriptors=()):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(os.environ["NOTIFY_SOCKET"])
        socket.send_fds(sender, [text.encode()], descriptors)
for i in range(100):
    file = os.memfd_create("file")
    notify(f"FDSTORE=1\\nFDNAME=\\x1b[2Jfile {i}", [file])
    os.close(file)
notify("READY=1\\nSTATUS=ready")
while True: signal.pause()`;

test("a full store leaves hold the descriptors that it needs to stop the service", {
  ignore: noPython,
}, async () => {
  using directory = new Directory();
  const through = ["sh", "-c", 'ulimit -n 90; exec "$@"', "sh"];
  const args = [directory.join("app.sock"), "--", "python3", "-c", script];
  await using held = new Held(args, { through });
  await held.until(/^hold: not storing "\\u001b\[2Jfile \d+": \d+ descriptors are kept already/);
  await held.until("hold: ready");
  held.signal("SIGTERM");
  await held.until(/^hold: process \d+ has ended with code 6$/);
  assertEquals((await held.ended()).code, 6);
});
