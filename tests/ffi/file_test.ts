import { assertEquals } from "@std/assert";
import { pathStatus } from "../../ffi/file.ts";
import { Directory } from "../support/directory.ts";
import { test } from "../support/guard.ts";

test("pathStatus() follows symbolic links", () => {
  using directory = new Directory();
  const [file, link] = [directory.join("file"), directory.join("link")];
  assertEquals(pathStatus(file), undefined);
  Deno.writeTextFileSync(file, "");
  Deno.symlinkSync("file", link);
  const { ino, dev } = Deno.statSync(file);
  const { kind, ...status } = pathStatus(link)!;
  assertEquals([kind, status.ino, status.dev], ["regular", BigInt(ino!), BigInt(dev)]);
  assertEquals(pathStatus(directory.path)!.kind, "directory");
});
