#!/usr/bin/env bash
# Boots a real systemd as PID 1 of new namespaces, for tests/support/systemd.ts:
#
#     systemd.sh TREE DIRECTORY LIMIT [OUTSIDE:INSIDE ...] < lease
#
# TREE is the root of an installation (/, or one of debootstrap); its files are the lower layer of an overlay
# whose changes are dropped. DIRECTORY is an empty directory, for the log of the boot. Each OUTSIDE, a file or
# a directory, is seen inside at INSIDE. Prints the PID of systemd as seen from outside, and its cgroup.
# Everything ends when stdin does (the test has ended, or was killed), or after LIMIT seconds.
set -euo pipefail

# The second half: in the new namespaces, builds the root of the tree and becomes systemd.
if [ "$1" = inside ]; then
  tree=$2 root=$3/root
  shift 3
  mount -t tmpfs -o mode=755 layers "$root"
  mkdir "$root/changes" "$root/work" "$root/new"
  mount -t overlay -o "lowerdir=$tree,upperdir=$root/changes,workdir=$root/work" changes "$root/new"
  cd "$root/new"
  mkdir -p proc sys dev run tmp etc
  mount -t proc proc proc
  mount -t sysfs sysfs sys
  mkdir -p sys/fs/cgroup
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  for each in dev run tmp; do mount -t tmpfs -o mode=755 $each $each; done
  chmod 1777 tmp
  for each in null zero full random urandom tty; do
    touch dev/$each
    mount --bind /dev/$each dev/$each
  done
  ln -s /proc/self/fd dev/fd
  mkdir -m 1777 dev/shm
  # PrivateDevices= mounts it again.
  mkdir dev/pts
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
  ln -s pts/ptmx dev/ptmx
  echo 0123456789abcdef0123456789abcdef > etc/machine-id
  : > etc/fstab
  for pair in "$@"; do
    from=${pair%%:*} to=.${pair#*:}
    mkdir -p "${to%/*}"
    if [ -d "$from" ]; then mkdir -p "$to"; else touch "$to"; fi
    mount --bind "$from" "$to"
  done

  # Instead of the units of the installation: the journal, and the targets that services depend on by default.
  mkdir run/base-units
  cp usr/lib/systemd/system/systemd-journald{.service,.socket,-dev-log.socket} run/base-units/ 2>/dev/null ||
    cp lib/systemd/system/systemd-journald{.service,.socket,-dev-log.socket} run/base-units/
  printf '[Unit]\nDefaultDependencies=no\n' |
    tee run/base-units/{sysinit,sockets,basic,shutdown,multi-user}.target > run/base-units/network.target
  cat > run/base-units/test.target <<'TARGET'
[Unit]
DefaultDependencies=no
Wants=sysinit.target sockets.target basic.target
Wants=systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service
TARGET
  mkdir -p old
  pivot_root . old
  umount -l /old
  exec env -i container=graceful PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_UNIT_PATH=/run/units:/run/base-units \
    /lib/systemd/systemd --system --unit=test.target --log-target=journal --show-status=no
fi

tree=$1 directory=$2 limit=$3
shift 3
cgroups=
while read -r _ path type _; do [ "$type" != cgroup2 ] || cgroups=$path; done < /proc/self/mounts
group=
started=

finish() {
  # timeout(1) is the leader of a process group; when PID 1 of the namespace dies, all in there do.
  [ -z "$started" ] || kill -KILL -- "-$started" 2>/dev/null || true
  for _ in {1..100}; do
    [ -n "$group" ] && [ -d "$group" ] || break
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.05
  done
}
trap finish EXIT
trap 'exit 1' TERM INT HUP

group=$(mktemp --directory "$cgroups/graceful-systemd-XXXXXX")
mkdir "$directory/root"
(
  echo "$BASHPID" > "$group/cgroup.procs"
  exec timeout --signal=KILL "$limit" unshare --mount --propagation=private --pid --fork \
    --kill-child=KILL --cgroup --uts --ipc --net bash "$0" inside "$tree" "$directory" "$@"
) > "$directory/log" 2>&1 < /dev/null &
started=$!
disown # bash would report that it was killed

children() { cat "/proc/$1/task/$1/children" 2>/dev/null || true; }
one=
for _ in {1..300}; do
  kill -0 "$started" 2>/dev/null || exit 1
  # timeout, its child unshare, and the child of that.
  one=$(children "$(children "$started" | tr -d ' ')" | tr -d ' ')
  [ -n "$one" ] && [ "$(cat "/proc/$one/comm" 2>/dev/null)" = systemd ] && break
  one=
  sleep 0.02
done
[ -n "$one" ] || exit 1
echo "$one $group"
read -r -t "$limit" || true
