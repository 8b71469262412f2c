#!/bin/sh
# Node.js 22.12.0 between a service manager and Deno 2.9.6: LISTEN_FDS arrives, and the descriptors do not.
#
# A socket unit passes its listener as descriptor 3, without FD_CLOEXEC, and announces it by LISTEN_FDS=1 and
# LISTEN_PID (sd_listen_fds(3)). Started by the manager itself, or through a shell, Deno finds a socket at number 3. Started
# by a node process with stdio "inherit", as npx and the launcher of npm's own "deno" package do, it has the variables
# all the same, but number 3 is an epoll that Deno has opened: node sets FD_CLOEXEC on what it has inherited. A
# program that trusts LISTEN_FDS and does not compare LISTEN_PID takes a part of its runtime for the listener.
#
# Needs npm, Python 3 and Linux. Prints "as stated: ..." and exits with 0, or "changed: ..." and exits with 1.
set -eu
deno_version=2.9.6
node_version=22.12.0
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
npm install --silent --no-audit --no-fund --prefix "$directory" "deno@$deno_version" "node@$node_version" > /dev/null
cat > "$directory/look.ts" <<'TS'
const { LISTEN_FDS, LISTEN_PID } = Deno.env.toObject();
const what = Deno.readLinkSync("/proc/self/fd/3").replace(/^anon_inode:|:?\[\d+\]$/g, "");
console.log(`LISTEN_FDS=${LISTEN_FDS} of ${Number(LISTEN_PID) === Deno.pid ? "this" : "another"} process, 3 is ${what}`);
TS
# What a service manager does: the listener at number 3, the variables, and the program in the place of this one.
cat > "$directory/manager.py" <<'PY'
import os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
os.dup2(os.dup(listener.fileno()), 3, inheritable=True)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execvp(sys.argv[1], sys.argv[1:])
PY
cat > "$directory/launcher.cjs" <<'JS'
const { spawnSync } = require("node:child_process");
const [program, ...args] = process.argv.slice(2);
process.exitCode = spawnSync(program, args, { stdio: "inherit" }).status;
JS
cd "$directory"
deno=$directory/node_modules/deno/deno
node=$(node_modules/.bin/node -p process.execPath)
[ "$("$node" --version)" = "v$node_version" ]
direct=$(python3 manager.py "$deno" run -A look.ts)
shell=$(python3 manager.py sh -c '"$0" run -A look.ts; exit' "$deno")
through=$(python3 manager.py "$node" launcher.cjs "$deno" run -A look.ts)
seen="by itself: $direct; through sh: $shell; through node: $through"
wanted="by itself: LISTEN_FDS=1 of this process, 3 is socket; through sh: LISTEN_FDS=1 of another process, 3 is socket"
wanted="$wanted; through node: LISTEN_FDS=1 of another process, 3 is [eventpoll]"
if [ "$seen" = "$wanted" ]; then
  echo "as stated: Deno $deno_version, node $node_version; $seen"
else
  echo "changed: Deno $deno_version, node $node_version; $seen"
  exit 1
fi
