#!/usr/bin/env python3
"""Sessions with TLS: programs behave as without, nothing they send can be read on the way, and plain ones are refused."""

import pathlib
import socket
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness  # noqa: E402
import programs  # noqa: E402
from checks import Checks, build_from_arguments, finish  # noqa: E402

build, check = build_from_arguments(), Checks()


class Tap:
    """Passes every connection on to the server, and keeps what it sees."""

    def __init__(self, port):
        self.port, self.seen = port, bytearray()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.own = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            for a, b in ((client, server), (server, client)):
                threading.Thread(target=self.pump, args=(a, b), daemon=True).start()

    def pump(self, a, b):
        try:
            while data := a.recv(65536):
                self.seen += data
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            pass


with tempfile.TemporaryDirectory() as folder:
    with harness.PoolServer(build, folder, extra=["--encryption", "always"]) as server:
        tap = Tap(server.port)
        for name in ("copy_forms", "host_functions", "bidirectional", "threads64"):
            program, settings = programs.settings_of(name)
            if not build.program(program).exists():
                continue
            command = [str(build.program(program)), *settings["args"]]
            native = harness.run_native(command, settings, [build.software, *harness.toolkit_libraries()], settings["gpus"])
            words = server.bfrun(command, "tcp", settings["gpus"])
            words[words.index("--server") + 1] = f"127.0.0.1:{tap.own}"
            remote = harness.execute(words, harness.clean_environment(), settings)
            check(not remote.difference(native), f"{name} behaves as natively: {remote.difference(native)}")
        seen = bytes(tap.seen)
        check(len(seen) > 100_000, f"{len(seen)} bytes passed by")
        check(b"bfSessionStart" not in seen and b"software" not in seen.lower(), "no word of the sessions can be read")
        check(seen.count(b"\x16\x03\x01") >= 7, "every connection begins with a TLS handshake")
        text = server.token.read_text().splitlines()[-1].split(".")[2]
        check(bytes.fromhex(text) not in seen and text.encode() not in seen, "nor the token")
        words = server.bfrun(["sh", "-c", f"BF_ENCRYPT=0 {build.program('device_query')}"], "tcp")
        plain = subprocess.run(words, capture_output=True, env=harness.clean_environment())
        check(plain.returncode != 0, "a session without encryption is refused")
finish(check)
