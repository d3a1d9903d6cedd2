"""A server at the other end of a test link (link.py)."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "e2e")]
import harness
from link import SERVER

PORT = 56001


class LinkServer(harness.PoolServer):
    """bfserver at one end of a link; everything that asks it runs at the other."""

    def __init__(self, build, link, folder, **settings):
        super().__init__(build, folder, SERVER, **settings)
        self.link = link

    def at(self, end, command):
        return [sys.executable, str(HERE / "enter.py"), str(end.pid), *command]

    def command(self):
        self.port = PORT
        return self.at(self.link.server, super().command())

    def token_command(self):
        return self.at(self.link.server, super().token_command())

    def bf(self, *words):
        return self.at(self.link.client, self.through_relay(super().bf(*words)))

    def bfrun(self, *arguments, **more):
        return self.at(self.link.client, self.through_relay(super().bfrun(*arguments, **more)))

    def through_relay(self, words):
        return [f"127.0.0.1:{PORT}" if word == self.address else word for word in words]
