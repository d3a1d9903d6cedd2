"""What the tests of a managed pool share: an etcd of three members, and servers that agree in it."""

import atexit
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
import harness  # noqa: E402

ETCD = shutil.which("etcd")


def need_etcd():
    """Ends the test as skipped where there is no etcd."""
    if ETCD is None:
        print("skipped: etcd is not installed (Debian: etcd-server)")
        sys.exit(77)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def free_pair():
    """A free port whose next is free, too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
                return port
            except (OSError, OverflowError):
                pass


class Etcd:
    """Three members on loopback ports, in `folder`; they go away with the test."""

    def __init__(self, folder, members=3):
        self.folder = pathlib.Path(folder)
        ports = free_ports(2 * members)
        self.urls = [f"http://127.0.0.1:{port}" for port in ports[:members]]
        self.peers = [f"http://127.0.0.1:{port}" for port in ports[members:]]
        self.processes = [None] * members
        atexit.register(self.stop_all)

    def start(self, which):
        members = ",".join(f"m{i}={peer}" for i, peer in enumerate(self.peers))
        with open(self.folder / f"etcd{which}.log", "ab") as log:
            self.processes[which] = subprocess.Popen(
                [ETCD, "--name", f"m{which}", "--data-dir", str(self.folder / f"m{which}"), "--listen-client-urls", self.urls[which],
                 "--advertise-client-urls", self.urls[which], "--listen-peer-urls", self.peers[which],
                 "--initial-advertise-peer-urls", self.peers[which], "--initial-cluster", members, "--logger", "zap", "--log-level", "warn"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start_all(self):
        for which in range(len(self.processes)):
            self.start(which)

    def stop(self, which, how=signal.SIGKILL):
        process, self.processes[which] = self.processes[which], None
        if process is not None:
            process.send_signal(how)
            process.wait()

    def stop_all(self):
        for which in range(len(self.processes)):
            self.stop(which)


class Server(harness.PoolServer):
    """A server whose state outlives it: start() again finds what stop() or kill() left. The first one of a pool makes a
    token for the tests; the others know it once they have joined."""

    def __init__(self, build, folder, name, first=False, extra=(), **settings):
        folder = pathlib.Path(folder) / name
        folder.mkdir()
        super().__init__(build, folder, extra=["--server-name", name, *extra], **settings)
        self.name, self.first = name, first
        self.audit = folder / "state/audit.log"
        self.port = free_ports(1)[0]

    def start(self):
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        env=harness.clean_environment(), start_new_session=True)

    def ready(self, seconds=60):
        """True once it answers over its own socket."""
        return harness.wait_for(lambda: self.process.poll() is not None or self.bf("list", "--json")[0] == 0, seconds, 0.1)[0] and self.process.poll() is None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def bf(self, *words, timeout=90):
        """Runs bf on this server, as its administrator: status, standard output, standard error."""
        done = subprocess.run([str(self.build.bin / "bf"), *words, "--server", f"unix:backfield.{self.port}"], env=harness.clean_environment(),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        return done.returncode, done.stdout, done.stderr

    def status(self):
        done = self.bf("cluster", "status", "--json")
        return json.loads(done[1]) if done[1] else {}

    def claims(self):
        """How many leases etcd holds, of all servers; -1 if it does not say."""
        status = self.status()
        return sum(one["leases"] for one in status["servers"]) if status.get("majority") else -1


def use_token(server, name, *options):
    """Makes a token; the tools use it from now on. Returns its file."""
    status, text, error = server.bf("token", "create", name, *options)
    assert status == 0, error
    path = server.folder / f"token-{name}"
    path.write_text(text)
    path.chmod(0o600)
    return path


def make_pool(build, folder, count, init, join=(), extra=(), **settings):
    """`count` servers, the first of which makes the pool with `bf cluster init *init(0)`; the others join with join(i)."""
    servers = [Server(build, folder, f"gpu{i + 1}", first=i == 0, extra=extra, **settings) for i in range(count)]
    for server in servers:
        server.start()
        atexit.register(server.stop)
    for server in servers:
        if not server.ready():
            raise RuntimeError(f"{server.name} does not start:\n{server.log_text()}")
    os.environ["BF_E2E_TOKEN"] = str(use_token(servers[0], "tester", "--admin"))
    for i, server in enumerate(servers):
        words = ["init", *init(i)] if i == 0 else ["join", servers[0].address, *(join(i) if join else [])]
        status, text, error = server.bf("cluster", *words)
        if status != 0:
            raise RuntimeError(f"{server.name}: bf cluster {' '.join(words)}: {text}{error}\n{server.log_text()}")
    return servers
