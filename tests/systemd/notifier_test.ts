import { assert, assertEquals, assertMatch } from "@std/assert";
import { Notifier } from "../../lib/systemd/notifier.ts";
import { notify, patience } from "../../lib/systemd/notify.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";
import { KeptLog } from "../support/kept_log.ts";
import { type Notification, NotifySocket } from "../support/notify_socket.ts";
import { until } from "../support/until.ts";

/** Sends until the manager's queue is full. */
function fill(): void {
  while (notify("FILL=1", [], { logger: {} }));
}

/** The texts of messages but those of `fill`. */
function texts(messages: Notification[]): string[] {
  return messages.map(({ text }) => text).filter((text) => text !== "FILL=1");
}

test("a manager that does not read is waited for and warned about once, and gets the last state of each kind", async () => {
  using directory = new Directory();
  using manager = new NotifySocket(directory.join("notify"));
  const logger = new KeptLog();
  let heard = 0;
  const notifier = new Notifier(logger, () => heard++);
  fill();
  notifier.tell("READY=1\nSTATUS=a");
  const began = performance.now();
  for (let i = 0; i < 100; i++) notifier.send("WATCHDOG=1");
  for (let i = 0; i < 100; i++) notifier.tell(`STATUS=${i}`);
  // One more wait would be half of what each of them took.
  assert(performance.now() - began < 100 * patience);
  assertEquals(logger.warnings.length, 1);
  assertMatch(
    String(logger.warnings[0]),
    /^Cannot tell the service manager "READY=1\\nSTATUS=a": it does not read/,
  );
  assertEquals(texts(manager.received()), []);
  await until(() => heard === 1);
  assertEquals(texts(manager.received()), ["READY=1\nSTATUS=a", "STATUS=99"]);
  assert(!notifier.isWaiting);
  // The next time is warned about again, as soon as each kind was heard.
  notifier.send("WATCHDOG=1");
  manager.received();
  fill();
  assertEquals(notifier.send("WATCHDOG=1"), false);
  assertEquals(logger.warnings.length, 2);
  notifier.stop();
});

test("a state is not sent before those that wait, and none after stop()", () => {
  using directory = new Directory();
  using manager = new NotifySocket(directory.join("notify"));
  const notifier = new Notifier(new KeptLog(), () => {});
  fill();
  notifier.tell("MAINPID=1");
  manager.received();
  notifier.tell("READY=1");
  assertEquals(manager.received(), []);
  assert(notifier.isWaiting);
  notifier.stop();
  notifier.tell("STATUS=b");
  assertEquals(texts(manager.received()), ["STATUS=b"]);
});
