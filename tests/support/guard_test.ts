import { assertRejects } from "@std/assert";
import { Fd } from "../../mod.ts";
import { guarded, test } from "./guard.ts";

test("the guard notices a descriptor that a test leaves open", async () => {
  let left: Deno.FsFile | undefined;
  await assertRejects(
    () =>
      guarded(() => {
        left = Deno.openSync("/dev/null");
      }),
    Error,
    "/dev/null",
  );
  left!.close();
});

test("the guard notices a socket that replaces one of the same number", async () => {
  let first: Deno.Listener | undefined = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await assertRejects(
    () =>
      guarded(() => {
        first!.close();
        first = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      }),
    Error,
    "socket:",
  );
  first!.close();
});

test("the guard accepts a test that closes its descriptors", async () => {
  await guarded(() => {
    using _fd = new Fd(0).dup();
  });
});
