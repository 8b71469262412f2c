/**
 * Rules for the settings that count after a crash, at a stop and in a reload: whether systemd starts the service again,
 * keeps its sockets, and waits long enough (systemd.service(5), systemd.unit(5)).
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import { note, ok, problem, warning } from "./finding.ts";
import { commandLines, seconds } from "./unit.ts";
import { type Rule, socketUnits } from "./unit_context.ts";

/** In seconds: the defaults of `drainTimeout` + `forceCloseAfter`, and of `readyTimeout` + `probation` + `peerTimeout`. */
const drainTime = 90;
const restartTime = 75;

export const crashRules: Rule[] = [
  function restart({ Restart: restart }) {
    if (restart !== "no" && restart !== "on-success") return ok("Restart", `Restart=${restart}`);
    const text =
      `Restart=${restart}: after a crash nothing starts the service again, and systemd drops ` +
      "the sockets that it keeps";
    return problem("Restart", text, "Write Restart=on-failure into [Service]");
  },

  function startLimit(
    { StartLimitIntervalUSec: interval, StartLimitBurst: burst, Restart: restart },
  ) {
    if (restart === "no" || seconds(interval) === undefined) return undefined;
    if (seconds(interval) === 0 || burst === "0") {
      return ok("StartLimitIntervalSec", "StartLimitIntervalSec=0");
    }
    const text =
      `StartLimitIntervalSec=${interval}: after ${burst} starts within that time systemd ` +
      "starts the service no more, and drops the sockets that it keeps";
    return warning("StartLimitIntervalSec", text, "Write StartLimitIntervalSec=0 into [Unit]");
  },

  function store(unit, { generation }) {
    const most = Number(unit.FileDescriptorStoreMax ?? 0);
    const stored = Number(unit.NFileDescriptorStore ?? 0);
    if (most === 0) {
      if (socketUnits(unit).length > 0) {
        return ok("FileDescriptorStoreMax", `${socketUnits(unit).join(", ")} keeps the sockets`);
      }
      const text =
        "FileDescriptorStoreMax=0 and no socket unit: after kill -9 or `systemctl restart` " +
        "connections are refused until the next start";
      const advice = "Write FileDescriptorStoreMax=64 into [Service], or a .socket unit";
      return warning("FileDescriptorStoreMax", text, advice);
    }
    const text = `systemd keeps ${stored} of at most ${most} descriptors`;
    if (stored >= most) {
      const advice = `Write FileDescriptorStoreMax=${2 * most} into [Service]`;
      return warning("FileDescriptorStoreMax", `${text}: it drops further ones`, advice);
    }
    if (stored === 0 && generation && socketUnits(unit).length === 0) {
      const why = "a generation stores its sockets at the end of its probation, if it has any";
      return note("FileDescriptorStoreMax", `${text}: ${why}`);
    }
    return ok("FileDescriptorStoreMax", text);
  },

  function nonBlocking(unit) {
    const sockets = socketUnits(unit);
    if (sockets.length === 0) return undefined;
    if (unit.NonBlocking === "yes") return ok("NonBlocking", "NonBlocking=yes");
    const list = sockets.join(", ");
    const text =
      `NonBlocking=no with ${list}: each start of a unit with the socket makes it blocking ` +
      "for all processes, and a process that serves on it hangs";
    const advice = "Write NonBlocking=yes into [Service] of each unit with the socket";
    const own = unit.Id?.replace(/\.service$/, ".socket");
    const isShared = unit.Id?.includes("@") || sockets.some((name) => name !== own);
    return isShared ? problem("NonBlocking", text, advice) : note("NonBlocking", text, advice);
  },

  function oomPolicy({ OOMPolicy: policy }) {
    if (policy === undefined || policy === "continue") return undefined;
    const text =
      `OOMPolicy=${policy}: if the kernel kills one process of the unit for lack of memory, ` +
      "systemd ends all of them";
    return warning("OOMPolicy", text, "Write OOMPolicy=continue into [Service]");
  },

  function timeoutStart({ TimeoutStartUSec: value, ExecReload: reload }) {
    const limit = seconds(value);
    if (limit === undefined || commandLines(reload).length === 0) return undefined;
    if (limit >= restartTime) return ok("TimeoutStartSec", `TimeoutStartSec=${value}`);
    const text =
      `TimeoutStartSec=${value} is less than the ${restartTime} s of \`readyTimeout\`, ` +
      "`probation` and `peerTimeout`: systemd kills the command of ExecReload= then";
    return warning("TimeoutStartSec", text, "Write TimeoutStartSec=120 into [Service]");
  },

  function timeoutStop({ TimeoutStopUSec: value }) {
    const limit = seconds(value);
    if (limit === undefined || limit >= drainTime) {
      return limit === undefined ? undefined : ok("TimeoutStopSec", `TimeoutStopSec=${value}`);
    }
    const text =
      `TimeoutStopSec=${value} is less than the ${drainTime} s of \`drainTimeout\` and ` +
      "`forceCloseAfter`: a draining generation extends it (EXTEND_TIMEOUT_USEC), a process " +
      "that hangs does not";
    return note("TimeoutStopSec", text, `To be sure, write TimeoutStopSec=${drainTime + 10}`);
  },
];
