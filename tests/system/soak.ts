/**
 * `deno task soak`: a service is restarted again and again under every kind of load, and every request that
 * is not answered correctly is counted; then the same with `server.shutdown()` alone.
 *
 * @module
 */

import { Progress, runTool, wholeNumber } from "../support/command_line.ts";
import { missingTools, soak, type SoakOptions } from "./soak_run.ts";
import { report } from "./soak_report.ts";
import { measureStarts, reportStarts } from "./soak_starts.ts";

const usage = `Usage: deno task soak [options]

Restarts a service again and again while clients that never repeat a request load it, from processes of
their own, and counts what fails. Then does the same with a service that ends by server.shutdown() alone,
which does lose requests: a control that the clients notice. Exits with 0 when nothing failed but in the
control, with 1 when something did or the control lost nothing, with 2 for wrong arguments.

Every second restart is requested at the control socket, every 20th starts a process with default
options, and the others start a process with a short probation. An HTTP/2 stream that GOAWAY reports as
not processed is requested again, and counted apart.

  --restarts N   restart at least N times (100)
  --requests N   go on until N were answered on connections that are never idle (1000000)
  --control N    restart the service with server.shutdown() N times (10)
  --busy N       N connections that are never idle (48)
  --idle N       N connections that are idle most of the time (1000)
  --idle-for MS  the longest that those are idle (5000)
  --starts N     start each way N times, to compare how long that takes (20)
  --seed S       of the pauses of the clients, a whole number (1)
  --answer-goaway
                 let the HTTP/2 clients answer GOAWAY with GOAWAY, as Node does by default: Deno's server
                 then drops the requests that it has not answered yet, and they count as failed
  --help         print this

A seed repeats the pauses of the clients, not the order in which the processes run.`;

/** Soaks once, with a line of progress. */
async function soakWithProgress(options: SoakOptions): Promise<{ text: string; isFine: boolean }> {
  const { restarts, control } = options;
  let done = { restarts: 0, requests: 0, failed: 0, rate: 0 };
  using _progress = new Progress(() =>
    `${done.restarts} of ${restarts} ${control ? "restarts with shutdown() alone" : "restarts"}, ` +
    `${done.requests} requests, ${done.rate} a second, ${done.failed} failed`
  );
  const outcome = await soak({ ...options, progress: (figures) => done = figures });
  const { failed, errors } = outcome;
  // If the control loses nothing, the clients do not notice what is lost.
  const isFine = control ? failed > 0 : failed === 0 && errors.length === 0;
  return { text: report(outcome), isFine };
}

if (import.meta.main) {
  await runTool(usage, {
    options: {
      "restarts": { type: "string", default: "100" },
      "requests": { type: "string", default: "1000000" },
      "control": { type: "string", default: "10" },
      "busy": { type: "string", default: "48" },
      "idle": { type: "string", default: "1000" },
      "idle-for": { type: "string", default: "5000" },
      "starts": { type: "string", default: "20" },
      "seed": { type: "string", default: "1" },
      "answer-goaway": { type: "boolean", default: false },
    },
  }, async ({ values }) => {
    const options: SoakOptions = {
      control: false,
      restarts: wholeNumber("restarts", values.restarts),
      requests: wholeNumber("requests", values.requests),
      busy: wholeNumber("busy", values.busy),
      idle: wholeNumber("idle", values.idle),
      idleFor: wholeNumber("idle-for", values["idle-for"], { least: 1 }),
      seed: wholeNumber("seed", values.seed),
      answerGoaway: values["answer-goaway"],
    };
    const control = wholeNumber("control", values.control);
    const starts = wholeNumber("starts", values.starts);

    for (const line of await missingTools()) console.log(line);
    const reports: string[] = [];
    let isFine = true;
    if (starts > 0) reports.push(reportStarts(await measureStarts(starts)));
    for (
      const each of [options, { ...options, control: true, restarts: control, requests: 0 }]
    ) {
      if (each.restarts === 0) continue;
      const outcome = await soakWithProgress(each);
      isFine &&= outcome.isFine;
      reports.push(outcome.text);
    }
    console.log(`\n${reports.join("\n\n")}\n\nThe seed of the clients' pauses was ${options.seed}`);
    return isFine;
  });
}
