#!/bin/sh
# Deno 2.9.6: a child with stdout "inherit" inherits a duplicate that Deno made at its start, not descriptor 1.
#
# The program opens a file and makes it its descriptor 1 with dup2(2), as programs do to reopen their log. From
# then on console.log() writes to the file, and so does a child of system(3), which inherits descriptor 1. But a
# child of Deno.Command with stdout "inherit" writes to the stdout with which Deno was started; the same holds for
# stderr. Versions 2.7.14, 2.8.2 and 2.9.0 behave the same; on 2.0.6, 2.3.7 and 2.5.6 the child inherits
# descriptor 1.
#
# Needs npm and Linux with glibc. Prints "as stated: ..." and exits with 0, or "changed: ..." and exits with 1.
set -eu
version=2.9.6
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
npm install --silent --no-audit --no-fund --prefix "$directory" "deno@$version" > /dev/null
cat > "$directory/reopen.ts" <<'TS'
const libc = Deno.dlopen("libc.so.6", {
  open: { parameters: ["buffer", "i32", "i32"], result: "i32" },
  dup2: { parameters: ["i32", "i32"], result: "i32" },
  system: { parameters: ["buffer"], result: "i32" },
});
const text = (value: string) => new TextEncoder().encode(`${value}\0`);
const O_WRONLY = 1, O_CREAT = 0o100, O_APPEND = 0o2000;
const file = libc.symbols.open(text(Deno.args[0]), O_WRONLY | O_CREAT | O_APPEND, 0o600);
libc.symbols.dup2(file, 1);
console.log("console.log");
libc.symbols.system(text("echo system"));
await new Deno.Command("echo", { args: ["Deno.Command"], stdout: "inherit" }).spawn().status;
TS
"$directory/node_modules/.bin/deno" run -A "$directory/reopen.ts" "$directory/log" > "$directory/start"
log=$(tr '\n' ' ' < "$directory/log")
start=$(tr '\n' ' ' < "$directory/start")
if [ "$log" = "console.log system " ] && [ "$start" = "Deno.Command " ]; then
  echo "as stated: Deno $version; to the file that is descriptor 1: $log; to the stdout at the start: $start"
else
  echo "changed: Deno $version; to the file that is descriptor 1: $log; to the stdout at the start: $start"
  exit 1
fi
