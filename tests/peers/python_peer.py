#!/usr/bin/env python3
"""A peer that passes descriptors with Python's standard library alone.

It shares no code with the library under test: both know only the wire format and the kernel's calls.
Every subcommand uses a unix stream socket at PATH and reports on standard output, one JSON object a
line; a wait ends with a line on standard input.
"""

import argparse
import array
import inspect
import json
import os
import resource
import socket
import stat
import sys

# include/net/scm.h: the most descriptors that one message carries.
SCM_MAX_FD = 253


def report(**fields):
    print(json.dumps(fields), flush=True)


def listening(path):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    report(event="listening")
    return listener


def connected(path):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    return connection


def connection_at(path, listens):
    """A connection at `path`: accepted from a new listener, or connected."""
    if not listens:
        return connected(path)
    with listening(path) as listener:
        return listener.accept()[0]


def send(arguments):
    """Listen at PATH and run conversations, one with each client.

    The first line of standard input is JSON: a list of conversations, which are lists of steps.
    A step {"data": HEX, "files": [PATH, ...]} is one sendmsg with a descriptor for each path;
    {"wait": NAME} reports NAME and waits for a line. A conversation ends with a close.
    """
    conversations = json.loads(sys.stdin.readline())
    opened = {}

    def descriptor(path):
        if path not in opened:
            opened[path] = os.open(path, os.O_RDONLY)
        return opened[path]

    with listening(arguments.path) as listener:
        for steps in conversations:
            connection, _ = listener.accept()
            with connection:
                for step in steps:
                    if "wait" in step:
                        report(event=step["wait"])
                        sys.stdin.readline()
                        continue
                    data = bytes.fromhex(step["data"])
                    descriptors = [descriptor(path) for path in step.get("files", [])]
                    if descriptors:
                        sent = socket.send_fds(connection, [data], descriptors)
                    else:
                        sent = 0
                    connection.sendall(data[sent:])


def receive(arguments):
    """Receive from PATH to the end of the stream, and report a description of each descriptor.

    The report has "plain", the bytes before the records; "messages", the number of descriptors of each
    recvmsg that returned any; "records", each with its meta and a description of its descriptor; and the
    rest at the end of the stream: "bytes" of an incomplete record, the number of "descriptors" without
    a record.
    """
    connection = connection_at(arguments.path, arguments.listen)
    plain, pending, descriptors, messages, records = b"", b"", [], [], []
    with connection:
        # Exactly this many: recv has no room for descriptors, and loses those of the bytes that it reads.
        while len(plain) < arguments.plain:
            piece = connection.recv(arguments.plain - len(plain))
            if not piece:
                break
            plain += piece
        for data, arrived in reads(connection, arguments.data_bytes):
            pending += data
            descriptors += arrived
            if arrived:
                messages.append(len(arrived))
            while len(pending) >= 4 and descriptors:
                end = 4 + int.from_bytes(pending[:4], "little")
                if len(pending) < end:
                    break
                descriptor = descriptors.pop(0)
                records.append({"meta": pending[4:end].hex(), **describe(descriptor)})
                os.close(descriptor)
                pending = pending[end:]
    report(
        event="received",
        plain=plain.hex(),
        messages=messages,
        records=records,
        bytes=pending.hex(),
        descriptors=len(descriptors),
    )


def reads(connection, data_bytes):
    """The bytes and descriptors of each recvmsg, to the end of the stream."""
    control_bytes = socket.CMSG_SPACE(4 * SCM_MAX_FD)
    while True:
        data, control, flags, _ = connection.recvmsg(data_bytes, control_bytes)
        if not data:
            return
        if flags & socket.MSG_CTRUNC:
            raise OSError("the kernel dropped descriptors")
        descriptors = array.array("i")
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(payload) - len(payload) % descriptors.itemsize
                descriptors.frombytes(payload[:whole])
        yield data, list(descriptors)


def describe(descriptor):
    """The kind, the addresses or the content of a descriptor."""
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        content = os.pread(descriptor, 4096, 0).decode()
        return {"kind": "file", "inode": status.st_ino, "content": content}
    if not stat.S_ISSOCK(status.st_mode):
        return {"kind": "other", "inode": status.st_ino}
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        family = duplicate.family.name
        local = duplicate.getsockname()
        if duplicate.type == socket.SOCK_DGRAM:
            return {"kind": "datagram", "family": family, "local": local}
        if duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return {"kind": "listener", "family": family, "local": local}
        peer = duplicate.getpeername()
        return {"kind": "connection", "family": family, "local": local, "peer": peer}


def answer(arguments):
    """Receive a listener or a connection at PATH, and answer one line that comes over it.

    A listener first accepts a connection. The answer is "Python read: " and the line.
    """
    with connected(arguments.path) as connection:
        _, descriptors, _, _ = socket.recv_fds(connection, 4096, SCM_MAX_FD)
    with socket.socket(fileno=descriptors[0]) as received:
        # The mode is shared by all descriptors of the socket; Deno does not use its own any more.
        received.setblocking(True)
        listens = received.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        report(event="received", listens=bool(listens))
        with received.accept()[0] if listens else received as client:
            with client.makefile("rw", newline="\n") as lines:
                lines.write("Python read: " + lines.readline())
                lines.flush()


def give(arguments):
    """Make a listener or a connection, send it to the first client at PATH, and exit.

    The meta is its address, as JSON.
    """
    if arguments.what == "connection":
        given = socket.create_connection(("127.0.0.1", int(arguments.at)))
        given.sendall(b"Python was here\n")
    elif arguments.what == "listener":
        given = socket.create_server(("127.0.0.1", 0))
    else:
        given = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        given.bind(arguments.at)
        given.listen()
    meta = json.dumps(given.getsockname()).encode()
    with connection_at(arguments.path, listens=True) as connection, given:
        record = len(meta).to_bytes(4, "little") + meta
        socket.send_fds(connection, [record], [given.fileno()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")

    def subcommand(function):
        summary, _, details = function.__doc__.partition("\n")
        added = subcommands.add_parser(
            function.__name__,
            help=summary,
            description=inspect.cleandoc(function.__doc__),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(function=function)
        added.add_argument("path", metavar="PATH", help="the unix socket")
        return added

    subcommand(send)
    receiving = subcommand(receive)
    receiving.add_argument("--listen", action="store_true", help="listen at PATH, not connect to it")
    receiving.add_argument("--plain", type=int, default=0, help="bytes before the records")
    receiving.add_argument("--data-bytes", type=int, default=65536, help="room for data in a read")
    subcommand(answer)
    giving = subcommand(give)
    giving.add_argument("what", choices=["listener", "unix-listener", "connection"])
    giving.add_argument("--at", help="the unix listener's path, or the port of 127.0.0.1 to connect to")

    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    arguments.function(arguments)


if __name__ == "__main__":
    main()
