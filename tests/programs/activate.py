"""Executes a command with descriptors from 3 on, as a service manager does (sd_listen_fds(3)).

Usage: activate.py [--pid NUMBER] [--count NUMBER] [--unnamed] DESCRIPTOR[=NAME]... -- COMMAND...

A DESCRIPTOR is tcp:HOST:PORT, unix:PATH, udp:HOST:PORT, unixgram:PATH, file:PATH, pipe:TEXT (which holds that), none,
or from:PATH: those that the test sends there, with their names as JSON. --pid is LISTEN_PID, by default that of the command; --count is LISTEN_FDS; --unnamed leaves out LISTEN_FDNAMES.
"""

import json
import os
import socket
import sys

FIRST = 3


def opened(kind, at):
    """The number of a new descriptor."""
    if kind == "file":
        return os.open(at, os.O_RDWR | os.O_CREAT, 0o600)
    if kind == "pipe":
        end, other = os.pipe()
        os.write(other, at.encode())
        return end
    if kind.startswith("unix"):
        family, address = socket.AF_UNIX, at
    else:
        host, port = at.rsplit(":", 1)
        family, address = (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, int(port))
    is_listener = kind in ("tcp", "unix")
    made = socket.socket(family, socket.SOCK_STREAM if is_listener else socket.SOCK_DGRAM)
    if kind == "tcp":
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind(address)
    if is_listener:
        made.listen(128)
    return made.detach()


def received(path):
    """Numbers and names of the descriptors that the test sends."""
    with socket.socket(socket.AF_UNIX) as conn:
        conn.connect(path.replace("@", "\0", 1))
        text, numbers, _, _ = socket.recv_fds(conn, 65536, 253)
    return list(zip(numbers, json.loads(text)))


def main():
    args, command = sys.argv[1:], []
    at = args.index("--")
    args, command = args[:at], args[at + 1:]
    pid, count, unnamed = str(os.getpid()), None, False
    while args and args[0].startswith("--"):
        option = args.pop(0)
        if option == "--pid":
            pid = args.pop(0)
        elif option == "--count":
            count = args.pop(0)
        else:
            unnamed = True
    # What the test itself has inherited was not passed by the service manager.
    os.closerange(FIRST, 1024)
    passed = []
    for arg in args:
        spec, _, name = arg.partition("=")
        kind, _, at = spec.partition(":")
        if kind == "from":
            passed += received(at)
        elif kind != "none":
            passed.append((opened(kind, at), name or "unknown"))
    numbers = [raw for raw, _ in passed]
    # First above all targets: a target may be the number of another one.
    high = [os.dup2(raw, 500 + i, inheritable=False) for i, raw in enumerate(numbers)]
    for raw in numbers:
        os.close(raw)
    for i, raw in enumerate(high):
        os.dup2(raw, FIRST + i, inheritable=True)
    os.environ["LISTEN_PID"] = pid
    os.environ["LISTEN_FDS"] = str(len(passed)) if count is None else count
    if not unnamed:
        os.environ["LISTEN_FDNAMES"] = ":".join(name for _, name in passed)
    os.execvp(command[0], command)


main()
