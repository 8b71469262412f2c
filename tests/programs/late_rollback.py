"""A service for `cli.ts hold` whose next generation fails, and which takes the service back late. Each line of the
standard input is a step: "hand over" starts a process and names it in PIDFILE, "end next" ends that with 0, "take back"
names this process again, "orphan" leaves a process behind that ends at once, and "end" ends with 3.
"""

import os
import socket
import sys


def claim(pid, text):
    path = os.environ["PIDFILE"]
    with open(path + ".new", "w") as file:
        file.write(f"{pid}\n")
    os.rename(path + ".new", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(os.environ["NOTIFY_SOCKET"])
        sender.send(text.encode())


def orphan(run):
    """Gives the number of a process that runs `run` and has no parent here."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        if (pid := os.fork()) == 0:
            run()
            os._exit(0)
        os.write(theirs, str(pid).encode())
        os._exit(0)
    os.wait()
    return int(os.read(ours, 20))


claim(os.getpid(), "READY=1")
ours, theirs = os.pipe()
for line in sys.stdin:
    match line.strip():
        case "hand over":
            claim(orphan(lambda: (os.close(theirs), os.read(ours, 1))), "STATUS=handed over")
        case "end next":
            os.close(theirs)
        case "take back":
            claim(os.getpid(), "STATUS=taken back")
        case "orphan":
            orphan(lambda: None)
        case "end":
            sys.exit(3)
