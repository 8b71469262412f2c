"""An HTTP server without generations, as many are: it serves on descriptor 3 (LISTEN_FDS), and answers with its PID.

With --notify it sends READY=1 to NOTIFY_SOCKET, stores a file that counts its starts (FDSTORE=1), three times, and prints
what it was passed.
"""

import os
import socket
import sys

listen_fds = int(os.environ["LISTEN_FDS"])
assert int(os.environ["LISTEN_PID"]) == os.getpid() == int(os.environ["SYSTEMD_EXEC_PID"])
names = os.environ["LISTEN_FDNAMES"].split(":")
assert len(names) == listen_fds
listener = socket.socket(fileno=3)
assert listener.getblocking() and os.get_blocking(3)


def notify(text, descriptors=()):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(os.environ["NOTIFY_SOCKET"])
        socket.send_fds(sender, [text.encode()], descriptors)


def barrier():
    ours, theirs = os.pipe()
    notify("BARRIER=1", [theirs])
    os.close(theirs)
    assert os.read(ours, 1) == b""
    os.close(ours)


if "--notify" in sys.argv:
    if "count" in names:
        file = 3 + names.index("count")
    else:
        file = os.memfd_create("count")
    os.pwrite(file, b"+", os.fstat(file).st_size)
    for _ in range(3):
        notify("FDSTORE=1\nFDNAME=count", [file])
    # Its other end is closed: hold drops it.
    ours, theirs = os.pipe()
    notify("FDSTORE=1\nFDNAME=broken", [theirs])
    os.close(ours)
    notify("FDSTORE=1\nFDNAME=removed", [1])
    notify("FDSTOREREMOVE=1\nFDNAME=removed")
    notify("FDSTORE=1\nFDNAME=not:valid", [0])
    notify("READY=1\nSTATUS=It is\x1b ready")
    barrier()
    print("names:", *names, "starts:", os.fstat(file).st_size, flush=True)

while True:
    conn, _ = listener.accept()
    conn.recv(4096)
    body = str(os.getpid()).encode()
    conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body))
    conn.close()
