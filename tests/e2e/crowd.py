"""Clients that borrow from the same servers again and again while some of them, and of the servers' workers, are killed."""

import collections
import os
import signal
import subprocess
import threading
import time

import harness

PATIENCE_S = 90  # longer than any request here may take


def ending_of(status, error):
    """How bfrun ended, in a word; None if nothing explains it."""
    if status == 0:
        return "success"
    if status == -signal.SIGKILL:
        return "killed"
    # A program whose server or worker died ends with a CUDA error of its own: any status will do, if bfrun says so.
    if "ended the lease" in error or (status == 125 and "no server answers" in error):
        return "server lost"
    if "lost the worker of" in error:
        return "worker lost"
    if status == 75 and "all servers are busy" in error:
        return "no majority" if "no majority" in error else "limit" if "the limit" in error else "busy"
    return None


class Crowd:
    """Of the servers at `addresses`; `chance` is the test's random.Random. Any number of threads may ask."""

    def __init__(self, build, addresses, chance):
        self.build, self.chance = build, chance
        self.servers = [word for address in addresses for word in ("--server", address)]
        self.endings = collections.Counter()
        self.unexplained = []
        self.running, self.lock = set(), threading.Lock()

    def request(self, share, program, token=""):
        """One bfrun, to its end; `share` are its options, `token` the client's file."""
        chance = self.chance
        words = [str(self.build.bin / "bfrun"), *self.servers, *share, "--policy", chance.choice(["auto", "pack", "spread"]),
                 "--timeout", str(chance.choice([0, 1, 5])), "--", *program]
        start = time.monotonic()
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                                   env={**harness.clean_environment(), "BF_TOKEN_FILE": str(token), "BF_LOG": "error"})
        with self.lock:
            self.running.add(process)
        hung = False
        try:
            output, error = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            hung = True
            os.killpg(process.pid, signal.SIGKILL)
            output, error = process.communicate()
        ending = "hung" if hung else ending_of(process.returncode, error)
        with self.lock:
            self.running.discard(process)
            self.endings[ending or "unexplained"] += 1
            if ending is None or hung:
                self.unexplained.append(f"{' '.join(words)} ended with {process.returncode} after {time.monotonic() - start:.1f} s, at {time.strftime('%H:%M:%S')}: {output[-300:]}{error}")

    def count(self, what):
        with self.lock:
            self.endings[what] += 1

    def kill_a_client(self):
        with self.lock:
            if self.running:
                self.chance.choice(sorted(self.running, key=id)).send_signal(signal.SIGKILL)
                self.endings["kills of clients"] += 1

    def kill_a_worker(self, server):
        """Mostly one that serves a program."""
        sockets = server.sockets()
        serving = [pid for pid, count in sockets.items() if count > min(sockets.values())]
        try:
            os.kill(self.chance.choice(serving if serving and self.chance.random() < 0.8 else list(sockets)), signal.SIGKILL)
            self.count("kills of workers")
        except (IndexError, ProcessLookupError):
            pass

    def report(self, check):
        """What must be true of all requests."""
        print(", ".join(f"{count} {what}" for what, count in self.endings.most_common()))
        check(self.endings["hung"] == 0, "none hung")
        lost, kills = self.endings["worker lost"], self.endings["kills of workers"] + self.endings["kills of servers"]
        check(lost <= kills, f"no more than {kills} programs lost their worker: {lost}")
        check(not self.unexplained, f"every request ended in success, a stated refusal or its time-out {self.unexplained[:3]}")
