"""A small service manager: the socket of sd_notify(3), a descriptor store, sockets of a socket unit, and the variables.

Usage: service_manager.py NOTIFY_PATH [--pidfile PATH] [--watchdog USEC] [--socket DESCRIPTOR=NAME]... [--no-store] -- COMMAND...

It starts the command at once, and again at the line "start"; at "forget" it empties the store. All
other lines are those of the command. Prints what it is told as lines of "notify: JSON", with the
PID file as it was at that moment, and "ended: PID CODE" for each process that has ended, orphans as well. The output of
the command goes where its own goes. A DESCRIPTOR is tcp:HOST:PORT or unix:PATH.
"""

import array
import ctypes
import json
import os
import select
import signal
import socket
import struct
import sys
import uuid

PR_SET_CHILD_SUBREAPER = 36


def say(line):
    os.write(1, (line + "\n").encode())


def text_of(path):
    try:
        with open(path) as file:
            return file.read()
    except (OSError, TypeError):
        return None


def listener(spec):
    kind, at = spec.split(":", 1)
    if kind == "unix":
        made, address = socket.socket(socket.AF_UNIX), at
    else:
        host, port = at.rsplit(":", 1)
        made, address = socket.socket(), (host, int(port))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(address)
    made.listen(128)
    return made.detach()


def address_of(raw):
    """The address of a socket; None of another descriptor."""
    try:
        with socket.socket(fileno=os.dup(raw)) as made:
            return made.getsockname()
    except OSError:
        return None


class Manager:
    def __init__(self, args):
        at = args.index("--")
        self.command = args[at + 1:]
        options, self.sockets = args[1:at], []
        self.pidfile = self.watchdog = None
        self.keeps = True
        while options:
            option = options.pop(0)
            if option == "--no-store":
                self.keeps = False
            elif option == "--pidfile":
                self.pidfile = options.pop(0)
            elif option == "--watchdog":
                self.watchdog = options.pop(0)
            else:
                spec, _, name = options.pop(0).partition("=")
                self.sockets.append((listener(spec), name))
        # Names and descriptors: the last that was stored comes first (systemd 252).
        self.store = []
        self.path = args[0]
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.notify.bind(self.path)

    def start(self):
        passed = self.sockets + self.store
        read, write = os.pipe()
        pid = os.fork()
        if pid:
            os.close(read)
            self.stdin = write
            return say(f"started: {pid}")
        os.dup2(read, 0)
        high = [os.dup2(raw, 500 + i, inheritable=False) for i, (raw, _) in enumerate(passed)]
        os.closerange(3, 500)
        for i, raw in enumerate(high):
            os.dup2(raw, 3 + i, inheritable=True)
        os.closerange(500, 1024)
        number = str(os.getpid())
        env = {**os.environ, "NOTIFY_SOCKET": self.path, "SYSTEMD_EXEC_PID": number}
        env["INVOCATION_ID"] = uuid.uuid4().hex
        if self.pidfile:
            env["PIDFILE"] = self.pidfile
        if self.watchdog:
            env.update(WATCHDOG_USEC=self.watchdog, WATCHDOG_PID=number)
        if passed:
            env.update(LISTEN_PID=number, LISTEN_FDS=str(len(passed)))
            env["LISTEN_FDNAMES"] = ":".join(name for _, name in passed)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvpe(self.command[0], self.command, env)

    def remove(self, name):
        for raw, stored in self.store:
            if stored == name:
                os.close(raw)
        self.store = [each for each in self.store if each[1] != name]

    def keep(self, raw, name):
        inode = os.fstat(raw).st_ino
        # The same open file is kept once, under its first name.
        if self.keeps and all(os.fstat(other).st_ino != inode for other, _ in self.store):
            self.store.insert(0, (os.dup(raw), name))

    def receive(self):
        size = struct.calcsize("i") * 253
        space = socket.CMSG_SPACE(size) + socket.CMSG_SPACE(struct.calcsize("3i"))
        data, control, _, _ = self.notify.recvmsg(65536, space)
        pidfile = text_of(self.pidfile)
        pid, numbers = None, array.array("i")
        for _, kind, value in control:
            if kind == socket.SCM_CREDENTIALS:
                pid = struct.unpack("3i", value)[0]
            else:
                numbers.frombytes(value)
        text = data.decode()
        lines = dict(line.split("=", 1) for line in text.split("\n"))
        if "FDSTORE" in lines:
            for raw in numbers:
                self.keep(raw, lines["FDNAME"])
        if "FDSTOREREMOVE" in lines:
            self.remove(lines["FDNAME"])
        sockets = [{"inode": os.fstat(raw).st_ino, "address": address_of(raw)} for raw in numbers]
        for raw in numbers:
            os.close(raw)
        say("notify: " + json.dumps(
            {"pid": pid, "text": text, "sockets": sockets, "pidfile": pidfile,
             "store": [name for _, name in self.store]}))

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            say(f"ended: {pid} {os.waitstatus_to_exitcode(status)}")

    def obey(self, line):
        if line == "start":
            self.start()
        elif line == "forget":
            for _, name in list(self.store):
                self.remove(name)
            say("forgotten")
        else:
            os.write(self.stdin, (line + "\n").encode())

    def run(self):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.start()
        while True:
            ready, _, _ = select.select([self.notify, 0], [], [], 0.02)
            if self.notify in ready:
                self.receive()
            elif 0 in ready:
                read = os.read(0, 65536)
                if not read:
                    return
                for line in read.decode().splitlines():
                    self.obey(line)
            self.reap()


Manager(sys.argv[1:]).run()
