"""Just enough rtnetlink to build test networks where no iproute2 is installed: veth pairs between network namespaces, a bridge,
addresses, links up and down, and a token bucket (tbf) on an end. Every function acts in the caller's own namespace."""

import os
import socket
import struct

NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE, NLM_F_REPLACE = 1, 4, 0x200, 0x400, 0x100
RTM_NEWLINK, RTM_NEWADDR, RTM_NEWQDISC = 16, 20, 36
NLMSG_ERROR = 2
IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_PID = 3, 10, 18, 19
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFA_ADDRESS, IFA_LOCAL = 1, 2
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TC_H_ROOT = 0xFFFFFFFF
IFF_UP = 1


def attribute(kind, payload):
    if isinstance(payload, str):
        payload = payload.encode() + b"\0"
    elif isinstance(payload, int):
        payload = struct.pack("=I", payload)
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + b"\0" * (-length % 4)


def request(kind, flags, body):
    """Sends one message and waits for the kernel's answer; OSError with what it says."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.bind((0, 0))
        kernel.send(struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0) + body)
        answer = kernel.recv(65536)
    _, answered, _, _, _ = struct.unpack_from("=IHHII", answer)
    code = struct.unpack_from("=i", answer, 16)[0] if answered == NLMSG_ERROR else 0
    if code:
        raise OSError(-code, f"netlink: {os.strerror(-code)}")


def link_body(index=0, flags=0, change=0):
    return struct.pack("=BxHiII", 0, 0, index, flags, change)


def add_veth(name, peer, peer_pid):
    """A pair of which `peer` lies in the namespace of process `peer_pid`."""
    other = link_body() + attribute(IFLA_IFNAME, peer) + attribute(IFLA_NET_NS_PID, peer_pid)
    info = attribute(IFLA_INFO_KIND, b"veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, other))
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link_body() + attribute(IFLA_IFNAME, name) + attribute(IFLA_LINKINFO, info))


def add_bridge(name):
    info = attribute(IFLA_INFO_KIND, b"bridge")
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link_body() + attribute(IFLA_IFNAME, name) + attribute(IFLA_LINKINFO, info))


def plug_in(name, bridge):
    request(RTM_NEWLINK, 0, link_body(socket.if_nametoindex(name)) + attribute(IFLA_MASTER, socket.if_nametoindex(bridge)))


def set_up(name):
    request(RTM_NEWLINK, 0, link_body(socket.if_nametoindex(name), IFF_UP, IFF_UP))


def set_down(name):
    request(RTM_NEWLINK, 0, link_body(socket.if_nametoindex(name), 0, IFF_UP))


def add_address(name, address, prefix_bits):
    packed = socket.inet_aton(address)
    body = struct.pack("=BBBBi", socket.AF_INET, prefix_bits, 0, 0, socket.if_nametoindex(name))
    request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed))


def shape(name, bits_per_s, burst_bytes, queue_bytes):
    """What leaves by `name` goes through a token bucket of that rate."""
    rate = bits_per_s // 8
    spec = struct.pack("=BBHhHI", 0, 1, 0, 0, 0, min(rate, 0xFFFFFFFF))  # struct tc_ratespec: Ethernet cells of one byte
    none = struct.pack("=BBHhHI", 0, 0, 0, 0, 0, 0)
    parms = spec + none + struct.pack("=III", queue_bytes, 0, 0)
    options = attribute(TCA_TBF_PARMS, parms) + attribute(TCA_TBF_BURST, burst_bytes)
    if rate > 0xFFFFFFFF:
        options += attribute(TCA_TBF_RATE64, struct.pack("=Q", rate))
    body = struct.pack("=BxxxiIII", 0, socket.if_nametoindex(name), 0, TC_H_ROOT, 0)
    request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body + attribute(TCA_KIND, "tbf") + attribute(TCA_OPTIONS, options))
