"""Hostile input at the server's port: random bytes, half-open connections, a thousand idle ones. The daemon neither dies
nor starves: a program runs all the while."""

import random
import resource
import socket
import struct

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
import programs
from checks import FULL, Checks, build_from_arguments, finish

build, check = build_from_arguments(), Checks()
settings = {**programs.DEFAULTS, "timeout": 60}
chance = random.Random(3)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)


def works(server, when):
    run = server.run([build.program("vector_add")], settings, "tcp")
    check(run.status == 0, f"{when}: a program ran in {run.seconds:.2f} s {(run.stdout + run.stderr)[-200:] if run.status else ''}")


def connect(server, unix=False):
    if unix:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(5)
        made.connect(f"\0backfield.{server.port}")
        return made
    return socket.create_connection(("127.0.0.1", server.port), timeout=5)


def throw(server, data, unix=False):
    try:
        with connect(server, unix) as made:
            made.sendall(data)
            made.shutdown(socket.SHUT_WR)
            made.settimeout(0.2)
            while made.recv(65536):
                pass
    except OSError:
        pass  # a server that hangs up on nonsense does right


def frame(opcode, body, payload=b"", flags=0, lane=0, body_bytes=None, payload_bytes=None):
    return struct.pack("<IIHHI", len(body) if body_bytes is None else body_bytes, len(payload) if payload_bytes is None else payload_bytes, opcode, flags, lane) + body + payload


with harness.Server(build) as server:
    works(server, "before")
    descriptors = server.open_descriptors()
    for unix in (False, True):
        for _ in range(400 if FULL else 60):
            throw(server, chance.randbytes(chance.choice([0, 1, 15, 16, 17, 100, 5000])), unix)
        for opcode in list(range(0, 12)) + [32, 48, 255, 256, 300, 65535]:
            throw(server, frame(opcode, b""), unix)
            throw(server, frame(opcode, chance.randbytes(200)), unix)
            throw(server, frame(opcode, b"\xff" * 50, chance.randbytes(50), flags=chance.randrange(65536), lane=chance.randrange(1 << 32)), unix)
            throw(server, frame(opcode, b"\x08\x01", body_bytes=0xffffffff), unix)
            throw(server, frame(opcode, b"\x08\x01", payload_bytes=0xffffffff), unix)
        check(server.process.poll() is None, f"alive after nonsense over {'the Unix socket' if unix else 'TCP'}")
    works(server, "after nonsense")

    idle = []
    for i in range(1000):
        made = connect(server)
        if i % 3 == 1:
            made.sendall(frame(1, b"", body_bytes=5000)[: chance.randrange(1, 16)])  # half a header
        elif i % 3 == 2:
            made.sendall(frame(3, b"\x08", body_bytes=100))  # half a body
        idle.append(made)
    works(server, "beside 1,000 idle and half-open connections")
    check(len(server.gpus()) == 2, "bf list answers beside them")
    for made in idle:
        made.close()
    settled, seconds = harness.wait_for(lambda: server.open_descriptors() <= descriptors + 3, 15, 0.2)
    check(settled, f"descriptors: {descriptors} before, {server.open_descriptors()} after, {seconds:.1f} s later")
    works(server, "at the end")
    check(server.free_mib() == server.idle_mib, "no memory is lost")
finish(check)
