/**
 * Calls start() again and again: every try before number TRY fails before ready(), and a pause follows. With
 * a PROBATION that the predecessor refuses, ready() itself fails.
 *
 *     retry_start.ts PATH TRY MILLISECONDS [PROBATION]
 *
 * @module
 */

import { pause } from "../../lib/time.ts";
import { start } from "../../mod.ts";

const [path, last, milliseconds, refused] = Deno.args;
for (let round = 1;; round++) {
  const isLast = round >= Number(last);
  const app = await start(path, { probation: refused && !isLast ? Number(refused) : 100 });
  if (!isLast) {
    if (refused) await app.ready().catch(() => {});
    else await app.stop();
    await pause(Number(milliseconds));
    continue;
  }
  app.serve(
    { hostname: "127.0.0.1", port: 0 },
    () => new Response(`${Deno.pid}, in try ${round}`),
  );
  await app.ready();
  await app.finished;
  break;
}
