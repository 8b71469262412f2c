import { assertEquals } from "@std/assert";
import { test } from "./support/guard.ts";

test("a wait for a time that is over ends at once, and Deno says nothing of it", async () => {
  const module = new URL("../lib/time.ts", import.meta.url).href;
  const program = `
    import { expiring, pause } from "${module}";
    await pause(-1);
    const late = expiring(-1, () => new Error("late"));
    await new Promise((resolve) => late.signal.onabort = resolve);
    console.log("over");
  `;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-config",
      "--no-lock",
      `data:application/typescript,${encodeURIComponent(program)}`,
    ],
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assertEquals([text(stdout), text(stderr)], ["over\n", ""]);
});
