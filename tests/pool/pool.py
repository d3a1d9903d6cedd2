"""What the tests of a managed pool share: an etcd of three members, and servers that agree in it. Both may lie on hosts of a test
network (tests/network/lan.py)."""

import atexit
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "e2e"), str(TESTS / "network")]
import harness  # noqa: E402
from lan import Here  # noqa: E402

ETCD = shutil.which("etcd")


def need_etcd():
    """Ends the test as skipped where there is no etcd."""
    if ETCD is None:
        print("skipped: etcd is not installed (Debian: etcd-server)")
        sys.exit(77)


def free_port(neighbours=0):
    """A free port whose next `neighbours` are free, too; one that the kernel takes for no outgoing connection, so that it is still
    free when a server comes back to it."""
    outgoing = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, outgoing - neighbours if outgoing > 20_000 else 60_000)
        with contextlib.ExitStack() as probes:
            try:
                for i in range(neighbours + 1):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port + i))
                return port
            except OSError:
                pass


def until(question, good, seconds=60, interval=0.3):
    """Asks until the answer is good; returns whether it became so in time, the last answer, and how long it took. Where a test waits
    for something that has no promised time, a loaded machine gets plenty of it."""
    answers = []

    def answered():
        answers[:] = [question()]
        return good(answers[0])

    done, took = harness.wait_for(answered, seconds, interval)
    return done, answers[0], took


class Etcd:
    """One member on each of three hosts, in `folder`; they go away with the test."""

    def __init__(self, folder, hosts=(Here(), Here(), Here())):
        self.folder, self.hosts = pathlib.Path(folder), hosts
        ports = [free_port(1) for _ in hosts]
        self.urls = [f"http://{host.address}:{port}" for host, port in zip(hosts, ports)]
        self.peers = [f"http://{host.address}:{port + 1}" for host, port in zip(hosts, ports)]
        self.processes = [None] * len(hosts)
        atexit.register(self.stop_all)

    def start(self, which):
        members = ",".join(f"m{i}={peer}" for i, peer in enumerate(self.peers))
        with open(self.log_path(which), "ab") as log, self.hosts[which].inside():
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

    def log_path(self, which):
        return self.folder / f"etcd{which}.log"

    def log_text(self, lines):
        return "\n".join(f"--- etcd {which}\n" + "\n".join(self.log_path(which).read_text(errors="replace").splitlines()[-lines:])
                         for which in range(len(self.processes)))


class Server(harness.PoolServer):
    """A server whose state outlives it: start() again finds what stop() or kill() left."""

    def __init__(self, build, folder, name, host=Here(), extra=(), **settings):
        folder = pathlib.Path(folder) / name
        folder.mkdir()
        super().__init__(build, folder, host.address, extra=["--server-name", name, *extra], **settings)
        self.name, self.at = name, host
        self.audit = folder / "state/audit.log"
        self.port = free_port()

    def start(self):
        with self.at.inside():
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                            env=harness.clean_environment(), start_new_session=True)

    def ready(self, seconds=60):
        """True once it answers over its own socket."""
        return harness.wait_for(lambda: self.process.poll() is not None or self.bf("list", "--json")[0] == 0, seconds, 0.1)[0] and self.process.poll() is None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def bf(self, *words, timeout=180):
        """Runs bf on this server, as its administrator: status, standard output, standard error."""
        with self.at.inside():
            done = subprocess.run([str(self.build.bin / "bf"), *words, "--server", f"unix:backfield.{self.port}"], env=harness.clean_environment(),
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        return done.returncode, done.stdout, done.stderr

    def told(self, *words):
        """What `bf ... --json` says; if nothing, why."""
        _, text, error = self.bf(*words, "--json")
        return json.loads(text) if text else {"error": error}

    def status(self):
        return {"servers": [], "etcd": [], **self.told("cluster", "status")}

    def claims(self):
        """How many leases etcd holds, of all servers; -1 if it does not say."""
        status = self.status()
        return sum(one["leases"] for one in status["servers"]) if status.get("majority") else -1

    def unfree(self):
        """The GPUs of which some memory is taken; what went wrong, if it does not say."""
        told = self.told("list")
        gpus = [gpu for one in told.get("servers", []) for gpu in one.get("gpus", [])]
        return [gpu for gpu in gpus if gpu["free_mib"] != gpu["memory_mib"]] if gpus else [told]


def use_token(server, name, *options):
    """Makes a token; the tools use it from now on. Returns its file."""
    status, text, error = server.bf("token", "create", name, *options)
    assert status == 0, error
    path = server.folder / f"token-{name}"
    path.write_text(text)
    path.chmod(0o600)
    return path


@contextlib.contextmanager
def explained(check, servers, etcd=None):
    """Ends the servers at the end, and prints what they said if anything went wrong."""
    try:
        yield
    except BaseException:
        check.failed += 1
        raise
    finally:
        for server in servers:
            server.stop()
        if check.failed:
            for server in servers:
                print(f"--- {server.name}\n{server.log_text(60)}")
            print(etcd.log_text(20) if etcd else "", flush=True)


def make_pool(build, folder, hosts, init, join=(), extra=(), **settings):
    """A server on each host; the first makes the pool with `bf cluster init *init(0)`, the others join with join(i)."""
    servers = [Server(build, folder, f"gpu{i + 1}", host, extra=extra, **settings) for i, host in enumerate(hosts)]
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
