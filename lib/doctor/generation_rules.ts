/**
 * Rules for the settings by which systemd treats the processes of a unit: with the wrong ones it ends the next generation
 * together with the previous one (systemd.service(5), systemd.kill(5)).
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

import { escaped, quoted } from "../../ffi/quote.ts";
import { note, ok, problem, warning } from "./finding.ts";
import { commandLines } from "./unit.ts";
import { isPerGeneration, pathFor, type Rule } from "./unit_context.ts";

export const generationRules: Rule[] = [
  function type(unit) {
    const { Type: type } = unit;
    if (type === "notify") return ok("Type", "Type=notify");
    const write = "Write Type=notify into [Service]";
    if (type === "notify-reload") {
      const text = "Type=notify-reload: a restart that fails counts as a reload that succeeds";
      return warning("Type", text, `${write}, and ExecReload=`);
    }
    if (isPerGeneration(unit)) {
      const text = `Type=${type}: \`systemctl start\` of the next unit does not wait for ready()`;
      return note("Type", text, write);
    }
    const text = `Type=${type}: \`systemctl start\` does not wait for ready(), and without ` +
      "NotifyAccess= and a store restart() refuses (systemd before 253 takes notify-reload for simple)";
    return problem("Type", text, write);
  },

  function notifyAccess(unit) {
    const { NotifyAccess: access } = unit;
    if (access === "all") return ok("NotifyAccess", "NotifyAccess=all");
    if (isPerGeneration(unit) && access !== "none") return undefined;
    if (isPerGeneration(unit) && unit.Type !== "notify") return undefined;
    const text =
      `NotifyAccess=${access}: systemd does not read messages of the next generation, which is not ` +
      "the main process yet";
    return problem("NotifyAccess", text, "Write NotifyAccess=all into [Service]");
  },

  function pidFile(unit, context) {
    const { generation, recorded } = context;
    const { PIDFile: file, ActiveState: state } = unit;
    if (!file) {
      if (isPerGeneration(unit)) return undefined;
      const text =
        "PIDFile= is not set: a stop of the unit in the probation of a restart is not waited for, " +
        "and cuts requests";
      return warning(
        "PIDFile",
        text,
        `Write PIDFile=${
          escaped(pathFor(unit, context).replace(/\.sock(et)?$/, "").concat(".pid"))
        } into [Service]`,
      );
    }
    if (state !== "active" && state !== "reloading") return undefined;
    const named = `PIDFile=${escaped(file)}`;
    const restart =
      "Restart the service, whose ready() writes it; the user of the service has to be " +
      "able to write there (RuntimeDirectory=)";
    if (!recorded) {
      const text = `${named} names no process: when the main process ends, systemd ends the others`;
      return problem("PIDFile", text, restart);
    }
    if (!recorded.isInUnit) {
      const text =
        `${named} names process ${recorded.pid}, which is none of the unit's: when the main ` +
        "process ends, systemd ends the others";
      return problem("PIDFile", text, restart);
    }
    if (generation && recorded.pid !== generation.pid) {
      const text = `${named} names process ${recorded.pid}, and process ${generation.pid} is the ` +
        "generation that answers: systemd takes the wrong one for the next main process";
      // In a probation it is so for a moment.
      if (recorded.pid === generation.predecessor) return note("PIDFile", text);
      return warning("PIDFile", text, "Run the command of ExecReload=, and look again");
    }
    return ok("PIDFile", `${named} names process ${recorded.pid}`);
  },

  function killMode(unit) {
    const { KillMode: mode } = unit;
    if (mode === "control-group") return ok("KillMode", "KillMode=control-group");
    const write = "Write KillMode=control-group into [Service], or remove the line";
    if (mode === "mixed") {
      if (isPerGeneration(unit)) return ok("KillMode", "KillMode=mixed, one generation a unit");
      const text =
        "KillMode=mixed: a stop in the probation of a restart signals the previous generation " +
        "alone, waits for TimeoutStopSec=, and kills the generation that serves";
      return problem("KillMode", text, write);
    }
    const text = `KillMode=${mode}: a stop leaves generations behind, which no manager supervises`;
    return problem("KillMode", text, write);
  },

  function killSignal({ KillSignal: signal }) {
    if (signal === undefined || signal === "15" || signal === "2") return undefined;
    const text =
      `KillSignal=${signal}: by default a generation drains on SIGTERM (15) and SIGINT (2)`;
    return warning("KillSignal", text, "Remove KillSignal=, or name the signal in `stopOn`");
  },

  function start({ ExecStart: value }, context) {
    const [line] = commandLines(value);
    const launcher = line && launcherOf(line);
    if (!launcher) return undefined;
    const text =
      `ExecStart= starts the program through ${quoted(launcher)}: LISTEN_PID is the number ` +
      "of that process, and systemd sends its signals there";
    const own = context.start ?? "/usr/bin/deno run -A /srv/app/main.ts";
    const advice = `Write ExecStart=${escaped(own)} into [Service], the path of deno itself`;
    return warning("ExecStart", text, advice);
  },

  function reload(unit, context) {
    const lines = commandLines(unit.ExecReload);
    const paths = lines.map((line) => / restart (\S+)/.exec(line)?.[1]).filter(Boolean);
    const { restart = "/usr/bin/deno run -A .../cli.ts restart" } = context;
    const line = `${restart} ${pathFor(unit, context)}`;
    const write = `Write ExecReload=${escaped(line)} into [Service]`;
    if (paths.length > 0) {
      const own = context.generation && context.path;
      if (!own || paths.some((path) => path!.replace(/^\/var\/run\//, "/run/") === own)) {
        return ok("ExecReload", "ExecReload= is set");
      }
      const text = `ExecReload= restarts the service at ${escaped(paths[0]!)}, and this one has ` +
        escaped(own);
      return warning("ExecReload", text, write);
    }
    if (
      /(^|[/ ])kill .*-(s )?(SIG)?(HUP|1)\b/.test(lines[0] ?? "") &&
      context.listensToHangup === false
    ) {
      const text =
        `ExecReload=${
          escaped(lines[0])
        }: the generation does not listen to SIGHUP, which ends it: ` +
        "systemd takes that for success, and starts nothing";
      return problem("ExecReload", text, write);
    }
    if (lines.length > 0) {
      const text =
        `ExecReload=${escaped(lines[0])}: \`systemctl reload\` does not wait for the next ` +
        "generation, and does not fail with it";
      return note("ExecReload", text, write);
    }
    if (isPerGeneration(unit)) return undefined;
    return warning("ExecReload", "ExecReload= is not set: `systemctl reload` fails", write);
  },

  function runtimeDirectory(unit, { path, unixPaths = [] }) {
    const { RuntimeDirectory: names, RuntimeDirectoryPreserve: preserve } = unit;
    if (preserve !== "no") return undefined;
    const directories = names?.split(" ").filter((name) => name !== "") ?? [];
    const around = (path: string) => directories.find((name) => path.startsWith(`/run/${name}/`));
    if (!isPerGeneration(unit)) {
      const removed = unixPaths.find(around);
      if (!removed) return undefined;
      const text =
        `RuntimeDirectory=${
          escaped(around(removed)!)
        } is removed when the unit is started again, after a crash too, ` +
        `and with it ${escaped(removed)}: until the service has bound it, clients find no path`;
      return warning(
        "RuntimeDirectory",
        text,
        "Write RuntimeDirectoryPreserve=restart into [Service]",
      );
    }
    const own = path && around(path);
    if (!own) return undefined;
    const text =
      `RuntimeDirectory=${escaped(own)} is removed when this unit becomes inactive, and with ` +
      "it the control socket of the unit that has taken over";
    return problem("RuntimeDirectory", text, "Write RuntimeDirectoryPreserve=yes into [Service]");
  },

  function membership({ Id: id, ActiveState: state }, { generation, isInUnit }) {
    if (!generation || isInUnit !== false || state === undefined) return undefined;
    const text =
      `Process ${generation.pid}, which answers, is none of ${id}: it was started beside the ` +
      "unit, and nothing starts it again";
    const advice = `Run \`systemctl restart ${id}\`, which takes over, and start releases by ` +
      "`systemctl reload` alone";
    return problem("ControlGroup", text, advice);
  },

  function main({ MainPID: main }, { generation, isInUnit, isMainChild }) {
    const pid = Number(main ?? 0);
    if (pid === 0) return undefined;
    if (isMainChild === false) {
      const text =
        `Process ${pid}, the main one, is no child of systemd: stop and restart do not wait ` +
        "for it, and cut its requests";
      return problem("MainPID", text, "Run `systemctl daemon-reload`, and set PIDFile=");
    }
    if (!generation || isInUnit === false) return undefined;
    if (pid === generation.pid) {
      return ok("MainPID", `MainPID=${pid} is the generation that answers`);
    }
    if (pid === generation.predecessor) {
      return ok("MainPID", `MainPID=${pid} is the previous generation, until it has drained`);
    }
    const text =
      `MainPID=${pid} is not process ${generation.pid}, the generation that answers: when ` +
      "the main process ends, systemd ends the others";
    return warning("MainPID", text, "Start deno itself by ExecStart=, and set PIDFile=");
  },
];

/** The program that starts the service's own as a child; undefined if the first one is the service, or becomes it. */
function launcherOf(line: string): string | undefined {
  const [program, ...args] = line.replace(/^(\S*\/)?env( -\S+| \w+=\S*)* /, "").split(" ");
  const name = program.replace(/^.*\//, "");
  if (["npm", "npx", "yarn", "pnpm", "su", "sudo", "runuser"].includes(name)) return name;
  if (name === "deno" && args[0] === "task") return "deno task";
  const isShell = ["sh", "dash", "bash", "ash", "ksh", "zsh"].includes(name);
  return isShell && !/(^|[;&] ?| )exec /.test(args.join(" ")) ? name : undefined;
}
