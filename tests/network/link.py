"""A network between two namespaces on one host: a veth pair whose both ends are shaped by a token bucket, and a relay that
delays every byte (line.cc). With it the same program meets 10 Gb/s + 50 us here and on a GPU host. Needs root, or a
kernel that lets users make namespaces; leaves nothing behind."""

import contextlib
import ctypes
import math
import os
import subprocess
import time

import netlink

CLONE_NEWNET = 0x40000000
SERVER, CLIENT = "10.77.0.1", "10.77.0.2"
LIBC = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Namespace:
    """A network namespace, kept by a process of ours that sleeps in it."""

    def __init__(self):
        ready, tell = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(ready)
                checked(LIBC.unshare(CLONE_NEWNET))
                os.write(tell, b"1")
                while os.getppid() == parent:
                    time.sleep(1)
            finally:
                os._exit(0)
        os.close(tell)
        made = os.read(ready, 1)
        os.close(ready)
        if not made:
            os.waitpid(self.pid, 0)
            raise PermissionError("cannot make a network namespace; run this as root")
        self.fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def inside(self):
        """This thread is in it meanwhile, and the processes that it starts stay there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            checked(LIBC.setns(self.fd, CLONE_NEWNET))
            yield
        finally:
            checked(LIBC.setns(home, CLONE_NEWNET))
            os.close(home)

    def popen(self, command, **more):
        with self.inside():
            return subprocess.Popen(command, **more)

    def close(self):
        os.close(self.fd)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


class Link:
    """with Link(line, 10e9, 50e-6) as link: link.server.popen(...), link.client.popen(...); the client reaches the
    server's `port` at 127.0.0.1:`port`. `line` is the program built from line.cc."""

    def __init__(self, line, bits_per_s, rtt_s, port):
        self.line, self.bits_per_s, self.rtt_s, self.port = str(line), int(bits_per_s), rtt_s, port
        self.processes, self.namespaces = [], []

    def __enter__(self):
        try:
            self.server, self.client = self.namespace(), self.namespace()
            # A packet of the largest size, and what the line carries in half a millisecond.
            burst = max(128 << 10, int(self.bits_per_s / 8 * 0.0005))
            queue = burst + (4 << 20)

            def one_end(name, address):
                netlink.set_up("lo")
                netlink.add_address(name, address, 24)
                netlink.set_up(name)
                netlink.shape(name, self.bits_per_s, burst, queue)

            with self.client.inside():
                netlink.add_veth("bf-client", "bf-server", self.server.pid)
                one_end("bf-client", CLIENT)
            with self.server.inside():
                one_end("bf-server", SERVER)
            self.measure_line()
            self.relay(self.port, self.port, self.delay_us)
            return self
        except BaseException:
            self.__exit__()
            raise

    def namespace(self):
        self.namespaces.append(Namespace())
        return self.namespaces[-1]

    def relay(self, listen, port, delay_us):
        self.processes.append(self.client.popen([self.line, "relay", str(listen), SERVER, str(port), str(delay_us)]))
        return self.processes[-1]

    def measure_line(self):
        """Sets the delay so that the round trip is what is wanted, and says what a plain program gets over the link."""
        self.processes.append(self.server.popen([self.line, "serve", "7"]))
        self.delay_us = 0
        for _ in range(6):
            self.rtt_us, self.up_gb_s, self.down_gb_s = self.measured(self.delay_us)
            if abs(self.rtt_us - self.rtt_s * 1e6) < max(2, self.rtt_s * 1e6 / 20):
                break
            # A busy machine can make one round trip look long, and must not undo what is right.
            self.delay_us = max(self.delay_us // 2, self.delay_us + math.ceil((self.rtt_s * 1e6 - self.rtt_us) / 2))

    def measured(self, delay_us):
        """(round trip in us, GB/s up, GB/s down) through a relay of its own."""
        relay = self.relay(7, 7, delay_us)
        time.sleep(0.3)
        with self.client.inside():
            words = subprocess.run([self.line, "measure", "127.0.0.1", "7", "0.7"], capture_output=True, text=True, timeout=60, check=True).stdout.split()
        relay.kill()
        relay.wait()
        self.processes.remove(relay)
        return tuple(float(word) for word in words)

    def __str__(self):
        return (f"{self.bits_per_s / 1e9:g} Gb/s + {self.rtt_s * 1e6:g} us: a plain program sees {self.rtt_us:.0f} us, "
                f"{self.up_gb_s:.3f} GB/s to the server, {self.down_gb_s:.3f} GB/s back")

    def __exit__(self, *exception):
        for process in self.processes:
            process.kill()
            process.wait()
        for namespace in self.namespaces:
            namespace.close()
