#!/bin/sh
# Deno 2.9.6: `deno serve` takes --preload and never evaluates the module; `deno run` with DENO_AUTO_SERVE=1 does.
#
# Both serve the same `export default { fetch }`. `deno serve --help` lists --preload ("A list of files that will be
# executed before the main module"), and neither a warning nor the exit code tells that nothing was executed: tracing,
# instrumentation or a handover of listeners that is put there is missing in production, and the program works all the same.
# Not even a path that does not exist is noticed.
#
# Needs npm and Linux. Prints "as stated: ..." and exits with 0, or "changed: ..." and exits with 1.
set -eu
deno_version=2.9.6
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
npm install --silent --no-audit --no-fund --prefix "$directory" "deno@$deno_version" > /dev/null
cd "$directory"
deno=$(pwd)/node_modules/deno/deno
cat > before.ts <<'TS'
console.log("preloaded");
TS
cat > main.ts <<'TS'
setTimeout(() => Deno.exit(0), 500);
console.log("main");
export default { fetch: () => new Response("hello") };
TS
lines() { tr '\n' ' ' | sed 's/ $//'; }
help=$("$deno" serve --help 2> /dev/null | grep -c -e '--preload') || true
serve=$("$deno" serve -A --host 127.0.0.1 --port 0 --preload ./before.ts main.ts 2> stderr | lines)
said=$(grep -c -i -e preload -e warn stderr) || true
run=$(DENO_AUTO_SERVE=1 DENO_SERVE_ADDRESS=tcp:127.0.0.1:0 "$deno" run -A --preload ./before.ts main.ts 2> /dev/null | lines)
if "$deno" serve -A --host 127.0.0.1 --port 0 --preload ./missing.ts main.ts > /dev/null 2>&1; then missing=ignored; else missing=refused; fi
seen="in the help of serve: $help; serve: $serve; warnings: $said; run: $run; a missing module: $missing"
wanted="in the help of serve: 1; serve: main; warnings: 0; run: preloaded main; a missing module: ignored"
if [ "$seen" = "$wanted" ]; then
  echo "as stated: Deno $deno_version; $seen"
else
  echo "changed: Deno $deno_version; $seen"
  exit 1
fi
