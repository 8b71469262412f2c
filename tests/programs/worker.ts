/**
 * A thread with the library in it. Its first message says what to do; it answers with messages.
 *
 * @module
 */

import { listenLoopback } from "../support/loopback.ts";
import { fdListener, listen, receive, serveHttp } from "../../mod.ts";
import { adoptAgainAndAgain } from "../support/adopt_again.ts";

/** What a thread is told: to do this, with these. */
export interface Task {
  what: "serve" | "adopt" | "accept" | "receive";
  path: string;
  port?: number;
  count?: number;
}

interface Thread {
  onmessage: (event: MessageEvent<Task>) => void;
  postMessage(message: unknown): void;
}

const thread = globalThis as unknown as Thread;

thread.onmessage = async ({ data: { what, path, port, count } }) => {
  switch (what) {
    case "serve":
      await receive(path, (fd) => {
        serveHttp(fd, () => new Response("from the worker"));
      });
      thread.postMessage("serving");
      break;
    case "adopt":
      thread.postMessage(await adoptAgainAndAgain(count!, port!, path));
      break;
    case "accept":
      listen(path).accept();
      thread.postMessage("waiting");
      break;
    case "receive":
      // From a listener that never accepts; and beside it a native object waits, too.
      receive(path, () => {});
      fdListener(listenLoopback().raw).accept();
      thread.postMessage("waiting");
      break;
  }
};
