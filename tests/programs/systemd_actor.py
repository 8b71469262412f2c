"""A process of a systemd unit that does what a test tells it, for systemd/facts_test.ts: without the library.

    systemd_actor.py DIRECTORY NAME

Listens at DIRECTORY/NAME; reads a line of JSON, such as ["notify", "READY=1"], and answers with one.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

directory, name = sys.argv[1:]
kept = {}
terms = []
term = {"delay": 0, "extend": 0}


def notify(text, *names):
    """sd_notify(3); names are those of kept descriptors."""
    address = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(address)
        fds = [fd for each in names for fd in kept[each]]
        socket.send_fds(sender, [text.encode()], fds)


def start(other, *through):
    return subprocess.Popen([*through, sys.executable, __file__, directory, other])


def spawn(other):
    return start(other).pid


def orphan(other):
    """Starts it through a process that ends: systemd is its parent."""
    start(other, "sh", "-c", '"$@" & exit', "sh").wait()


def listen(as_name):
    kept[as_name] = [socket.create_server(("127.0.0.1", 0)).detach()]


def pipe(as_name):
    """A pipe whose other end is gone."""
    reading, writing = os.pipe()
    os.close(writing)
    kept[as_name] = [reading]


def files(as_name, count):
    kept[as_name] = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]


def passed():
    """The descriptors that systemd has passed (sd_listen_fds(3))."""
    names = os.environ.get("LISTEN_FDNAMES", "")
    found = []
    for i, each in enumerate(names.split(":") if names else []):
        fd = 3 + i
        found.append({
            "name": each,
            "blocking": os.get_blocking(fd),
            "cloexec": bool(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC),
            "inode": os.fstat(fd).st_ino,
        })
    return found


def on_term(*_):
    terms.append(time.time())
    if len(terms) > 1:
        return

    def leave():
        end = time.time() + term["delay"]
        while time.time() < end:
            if term["extend"]:
                notify("EXTEND_TIMEOUT_USEC=%d" % term["extend"])
            time.sleep(0.1)
        with open("%s/%s.terms" % (directory, name), "w") as file:
            json.dump(terms, file)
        os._exit(0)

    threading.Thread(target=leave).start()


commands = {
    "notify": notify,
    "spawn": spawn,
    "orphan": orphan,
    "listen": listen,
    "pipe": pipe,
    "files": files,
    "passed": passed,
    "pid": os.getpid,
    "env": os.environ.get,
    "term": term.update,
    "exit": os._exit,
    "blocking": os.set_blocking,
    "is_blocking": os.get_blocking,
    "last_word": lambda text: (notify(text), os._exit(0)),
}

signal.signal(signal.SIGTERM, on_term)
path = "%s/%s" % (directory, name)
if os.path.exists(path):
    os.unlink(path)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
while True:
    conn, _ = server.accept()
    with conn, conn.makefile("rw") as stream:
        command, *arguments = json.loads(stream.readline())
        answer = commands[command](*arguments)
        stream.write(json.dumps(answer) + "\n")
