import { assertEquals } from "@std/assert";
import { parseNotification } from "../../lib/hold/notification.ts";
import { test } from "../support/guard.ts";

const nothing = {
  ready: false,
  status: undefined,
  mainPid: undefined,
  extendBy: undefined,
  store: false,
  remove: false,
  name: undefined,
  poll: true,
};

test("a message of sd_notify(3) is read line by line; other lines are ignored", () => {
  assertEquals(parseNotification("READY=1\nSTATUS=a=b\nMAINPID=42\nSTOPPING=1\nX"), {
    ...nothing,
    ready: true,
    status: "a=b",
    mainPid: 42,
  });
  assertEquals(parseNotification("FDSTORE=1\nFDNAME=graceful?kind=listener\nFDPOLL=0\n"), {
    ...nothing,
    store: true,
    name: "graceful?kind=listener",
    poll: false,
  });
  assertEquals(parseNotification("FDSTOREREMOVE=1\nFDNAME="), {
    ...nothing,
    remove: true,
    name: "",
  });
  assertEquals(parseNotification("EXTEND_TIMEOUT_USEC=1500000"), { ...nothing, extendBy: 1500 });
});

test("values that are not what a name takes are ignored", () => {
  for (
    const text of ["", "=", "READY", "READY=0", "READY=11", " READY=1", "MAINPID=-1", "MAINPID=1e3"]
  ) {
    assertEquals(parseNotification(text), nothing, text);
  }
  assertEquals(parseNotification("EXTEND_TIMEOUT_USEC=9".padEnd(60, "9")), nothing);
});
