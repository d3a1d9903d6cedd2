"""What the end-to-end runners and scripts share: where a build's files lie, a server that always goes away again, and
runs of a program natively and through bfrun. Python's standard library only."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time


PATIENCE = float(os.environ.get("BF_E2E_PATIENCE", "1"))  # times a program's own time: for emulated processors


class Build:
    """A build tree or a portable build: bin/, lib/backfield/, e2e/."""

    def __init__(self, root):
        self.root = pathlib.Path(root).resolve()
        self.bin = self.root / "bin"
        self.programs = self.root / "e2e"
        self.shim = self.root / "lib/backfield"
        self.software = self.root / "lib/backfield/software"

    def missing(self):
        """The first thing that is not there, or None."""
        for path in (self.bin / "bfserver", self.bin / "bfrun", self.bin / "bf", self.shim / "libcuda.so.1", self.shim / "bfworker"):
            if not path.exists():
                return path
        return None

    def program(self, name):
        path = self.programs / name
        return path if path.exists() else self.bin / name


class Run:
    """How one program ended."""

    def __init__(self, status, stdout, stderr, seconds):
        self.status, self.stdout, self.stderr, self.seconds = status, stdout, stderr, seconds

    def difference(self, other):
        """What differs from `other` (the reference), in words; empty if nothing."""
        found = []
        if self.status != other.status:
            found.append(f"status {self.status} instead of {other.status}")
        for name in ("stdout", "stderr"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine == theirs:
                continue
            lines, expected = mine.decode(errors="replace").splitlines(), theirs.decode(errors="replace").splitlines()
            for i in range(max(len(lines), len(expected))):
                got = lines[i] if i < len(lines) else "(nothing)"
                want = expected[i] if i < len(expected) else "(nothing)"
                if got != want:
                    found.append(f"{name} line {i + 1}: got [{got[:200]}] instead of [{want[:200]}]")
                    break
            else:
                found.append(f"{name} differs in its line ends")
        return "; ".join(found)


def gpu_name():
    """The first GPU that nvidia-smi names, or None where there is none."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return listed.stdout.splitlines()[0] if listed.returncode == 0 and listed.stdout else None


def clean_environment():
    """The environment without anything that would steer the driver or Backfield."""
    drop = ("BF_", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(drop) or k.startswith("BF_E2E")}
    return {**kept, "BF_TOKEN_FILE": os.environ.get("BF_E2E_TOKEN", "")}  # never the token of whoever runs the tests


def execute(command, environment, settings):
    """Runs `command` to its end; past its time its whole process group is killed and the status is 'timeout'.
    Output goes to files, so that a grandchild that keeps a pipe open cannot hold us up."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(settings["stdin"].encode())
        stdin.seek(0)
        process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True,
                                   env={**environment, **settings["env"]})
        try:
            status = process.wait(timeout=settings["timeout"] * PATIENCE)
        except subprocess.TimeoutExpired:
            status = "timeout"
        try:
            os.killpg(process.pid, signal.SIGKILL)  # whatever it left behind
        except ProcessLookupError:
            pass
        process.wait()
        stdout.seek(0)
        stderr.seek(0)
        return Run(status, stdout.read(), stderr.read(), time.monotonic() - start)


def run_native(command, settings, library_path, gpus=1, memory_mib=2048):
    """On the driver found in `library_path` (None: the host's own)."""
    environment = clean_environment()
    paths = [str(p) for p in library_path]
    if paths:
        environment["LD_LIBRARY_PATH"] = ":".join(paths)
    environment["BF_SOFTGPU_COUNT"] = str(gpus)
    environment["BF_SOFTGPU_MEMORY_MIB"] = str(memory_mib)
    return execute(command, environment, settings)


class Server:
    """bfserver on a free port, for the length of a with statement."""

    def __init__(self, build, software_gpus=2, software_memory_mib=16384, extra=()):
        self.build, self.extra = build, list(extra)
        self.software = (["--software-gpus", str(software_gpus), "--software-memory", str(software_memory_mib)] if software_gpus else [])
        self.log = tempfile.NamedTemporaryFile(prefix="bfserver-", suffix=".log", delete=False)
        self.process = None
        self.port = 0

    def __enter__(self):
        for _ in range(5):  # another test may take the port between our look and the server's
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=clean_environment(), start_new_session=True)
            if self.wait_until_listening():
                self.idle_mib = self.free_mib()
                return self
            self.stop()
        raise RuntimeError(f"bfserver did not start:\n{self.log_text()}")

    def command(self):
        """What starts it, on self.port."""
        return [str(self.build.bin / "bfserver"), "--dev", "--foreground", "--listen", f"127.0.0.1:{self.port}", *self.software, *self.extra]

    def wait_until_listening(self):
        deadline = time.monotonic() + 60  # a real driver's first probe can take long
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.list():
                    return True
            except (OSError, subprocess.SubprocessError, ValueError):
                pass
            time.sleep(0.05)
        return False

    def __exit__(self, *exception):
        self.stop()
        self.log.close()
        os.unlink(self.log.name)

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def log_text(self, lines=30):
        text = pathlib.Path(self.log.name).read_text(errors="replace").splitlines()
        return "\n".join(text[-lines:])

    def bf(self, *words):
        """The command line of `bf` about this server."""
        return [str(self.build.bin / "bf"), *words, "--server", self.address]

    def list(self):
        """What `bf list --json` says."""
        done = subprocess.run(self.bf("list", "--json"), env=clean_environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=True)
        return json.loads(done.stdout)

    def gpus(self):
        """Every GPU that `bf list --json` names."""
        return [gpu for server in self.list()["servers"] for gpu in server.get("gpus", [])]

    def free_mib(self):
        """What is free on each GPU; equal to `idle_mib` when nobody borrows."""
        return [gpu["free_mib"] for gpu in self.gpus()]

    def sockets(self):
        """Worker -> how many sockets it holds; one that serves a session holds more than one that waits for work."""
        return {pid: count_sockets(pid) for pid in self.children()}

    def children(self):
        """Process ids of the server's descendants."""
        return descendants(self.process.pid)

    def open_descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def bfrun(self, command, transport="auto", gpus=1, memory_mib=2048, options=()):
        """The command line that runs `command` on this server."""
        share = ["-m", str(memory_mib)] if memory_mib else []
        return [str(self.build.bin / "bfrun"), "--server", self.address, "-n", str(gpus), *share, "--transport", transport,
                *options, "--", *[str(c) for c in command]]

    def run(self, command, settings, transport="auto", gpus=1, memory_mib=2048, library_path=()):
        environment = clean_environment()
        if library_path:
            environment["LD_LIBRARY_PATH"] = ":".join(str(p) for p in library_path)
        return execute(self.bfrun(command, transport, gpus, memory_mib), environment, settings)


class PoolServer(Server):
    """A server with tokens and TLS, its state in `folder`. It makes a token over its Unix socket, which the tools that
    clean_environment() is given to use from then on."""

    def __init__(self, build, folder, host="127.0.0.1", extra=(), **settings):
        super().__init__(build, extra=extra, **settings)
        self.folder, self.host = pathlib.Path(folder), host
        self.token = self.folder / "token"

    def command(self):
        words = [word for word in super().command() if word != "--dev"]
        words[words.index("--listen") + 1] = self.address
        return [*words, "--state-dir", str(self.folder / "state")]

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    def wait_until_listening(self):
        made, _ = wait_for(self.make_token, 60, 0.1)
        os.environ["BF_E2E_TOKEN"] = str(self.token)
        return made and super().wait_until_listening()

    def token_command(self):
        return [str(self.build.bin / "bf"), "token", "create", "tester", "--admin", "--server", f"unix:backfield.{self.port}"]

    def make_token(self):
        done = subprocess.run(self.token_command(), capture_output=True, env=clean_environment())
        if done.returncode == 0:
            self.token.write_bytes(done.stdout)
        return done.returncode == 0 or self.process.poll() is not None

    def stop(self):
        super().stop()
        os.environ.pop("BF_E2E_TOKEN", None)


def descendants(pid):
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            found.append(int(child))
            found.extend(descendants(int(child)))
    return found


def count_sockets(pid):
    count = 0
    try:
        for descriptor in os.scandir(f"/proc/{pid}/fd"):
            try:
                count += os.readlink(descriptor.path).startswith("socket:")
            except OSError:
                pass
    except OSError:
        pass
    return count


def wait_for(condition, seconds, interval=0.02):
    """Waits until `condition()` is true; returns whether it became so in time, and how long it took."""
    start = time.monotonic()
    while True:
        if condition():
            return True, time.monotonic() - start
        if time.monotonic() - start > seconds:
            return False, time.monotonic() - start
        time.sleep(interval)


def toolkit_libraries():
    """Folders with the toolkit's shared libraries (cudart, NVRTC), for programs that link them."""
    found = []
    for nvcc in [os.environ.get("CUDA_HOME", ""), *os.environ.get("PATH", "").split(":"), "/usr/local/cuda/bin"]:
        for folder in (pathlib.Path(nvcc) / "../lib64", pathlib.Path(nvcc) / "lib64"):
            if nvcc and any(folder.glob("libnvrtc.so*")) and folder.resolve() not in found:
                found.append(folder.resolve())
    return found
