/**
 * A generation that serves at a unix path when it reads the line `serve`, as the user UID; prints each step
 * and the log.
 *
 *     serve_unix_path.ts CONTROL PATH [UID]
 *
 * @module
 */

import { start } from "../../mod.ts";
import { told } from "../support/child.ts";

const [control, web, uid] = Deno.args;
if (uid) {
  const libc = Deno.dlopen("libc.so.6", {
    // int setresuid(uid_t ruid, uid_t euid, uid_t suid);
    setresuid: { parameters: ["u32", "u32", "u32"], result: "i32" },
  });
  // Deno has loaded the modules by now: the other user may not be able to read them.
  if (libc.symbols.setresuid(0xffff_ffff, Number(uid), 0xffff_ffff) !== 0) {
    throw new Error(`Cannot become user ${uid}`);
  }
}
const app = await start(control, {
  probation: 60_000,
  peerTimeout: 1000,
  allow: () => true,
  logger: {
    warn: (message) => console.log(`warning: ${message}`),
    error: (message) => console.log(`error: ${message}`),
  },
});
console.log(`started: ${app.generation}`);
for await (const line of told()) {
  try {
    if (line === "serve") {
      app.serve({ path: web }, () => new Response(`process ${Deno.pid}`));
      await app.ready();
      console.log("ready");
    }
    if (line === "receive") app.listenDatagram({ path: web });
  } catch (error) {
    console.log(`failed: ${(error as Error).message}`);
  }
  if (line === "stop") await app.stop();
}
