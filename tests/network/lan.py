"""Hosts on one switch, all on this host: each a network namespace with an address of its own, the switch a bridge in another.
Needs root; leaves nothing behind."""

import contextlib

import netlink
from link import Namespace


class Here:
    """Stands for a host where none can be made: this one, at its loopback address."""

    address = "127.0.0.1"

    def inside(self):
        return contextlib.nullcontext()


class Host(Namespace):
    def __init__(self, address):
        super().__init__()
        self.address = address

    def pull_cable(self):
        with self.inside():
            netlink.set_down("eth0")


@contextlib.contextmanager
def lan(count):
    """`count` hosts. OSError where they cannot be made."""
    with contextlib.ExitStack() as made:

        def keep(namespace):
            made.callback(namespace.close)
            return namespace

        switch = keep(Namespace())
        with switch.inside():
            netlink.add_bridge("switch")
            netlink.set_up("switch")
        hosts = []
        for i in range(count):
            host = keep(Host(f"10.78.0.{i + 1}"))
            with switch.inside():
                netlink.add_veth(f"port{i}", "eth0", host.pid)
                netlink.plug_in(f"port{i}", "switch")
                netlink.set_up(f"port{i}")
            with host.inside():
                netlink.set_up("lo")
                netlink.add_address("eth0", host.address, 24)
                netlink.set_up("eth0")
            hosts.append(host)
        yield hosts


@contextlib.contextmanager
def lan_or_loopback(count):
    """The same, or this host so many times, and says so."""
    with contextlib.ExitStack() as made:
        try:
            hosts = made.enter_context(lan(count))
        except OSError as error:
            print(f"over loopback, without a network: {error}", flush=True)
            hosts = [Here()] * count
        yield hosts
