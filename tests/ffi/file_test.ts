import { assertEquals, assertThrows } from "@std/assert";
import { pathStatus, replaceFile } from "../../ffi/file.ts";
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

test("replaceFile() puts another file at the path, and leaves nothing beside it", () => {
  using directory = new Directory();
  const path = directory.join("app.pid");
  const inodes = ["1\n", "22\n"].map((text) => {
    replaceFile(path, text, "Cannot write");
    assertEquals(Deno.readTextFileSync(path), text);
    return pathStatus(path)!.ino;
  });
  // Not the same file with another text: a reader never sees a half of it.
  assertEquals(inodes[0] !== inodes[1], true);
  Deno.mkdirSync(directory.join("directory"));
  assertThrows(
    () => replaceFile(directory.join("directory"), "3\n", "Cannot write"),
    Error,
    "Cannot write",
  );
  assertThrows(
    () => replaceFile(directory.join("missing/pid"), "3\n", "Cannot write"),
    Error,
    "Cannot write",
  );
  assertEquals(directory.names(), ["app.pid", "directory"]);
});
