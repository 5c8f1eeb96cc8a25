"""Runs on a controller: asks its kernel again and again whether an address is there and whether its lease lives.

    python3 kernel_view.py ADDRESS OUT     until SIGTERM; then writes one JSON object to OUT

Both answers come over netlink, without a program started: RTM_GETADDR (rtnetlink(7)) and a dump of the set `lease` of our
table (NFT_MSG_GETSETELEM, linux/netfilter/nf_tables.h).
"""

import json
import signal
import socket
import struct
import sys
import time

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
RTM_NEWADDR, RTM_GETADDR = 20, 22
NFT_NEWSETELEM, NFT_GETSETELEM = 10 << 8 | 12, 10 << 8 | 13
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST_DUMP = 0x301
IFA_ADDRESS, IFA_LOCAL = 1, 2
ATTRIBUTE_LIST_TABLE, ATTRIBUTE_LIST_SET, ATTRIBUTE_LIST_ELEMENTS = 1, 2, 3
NFPROTO_INET = 1
PAUSE_S = 0.005


def attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def attributes(data: bytes):
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[length + (-length % 4):]


class Netlink:
    def __init__(self, family: int) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
        self.socket.bind((0, 0))
        self.sequence = 0

    def dump(self, kind: int, body: bytes):
        """The bodies of the answers of one dump; nothing where what was asked for isn't there."""
        self.sequence += 1
        self.socket.send(struct.pack("=IHHII", 16 + len(body), kind, REQUEST_DUMP, self.sequence, 0) + body)
        while True:
            data = self.socket.recv(65536)
            while len(data) >= 16:
                length, answer, _, sequence, _ = struct.unpack_from("=IHHII", data)
                if length < 16:
                    return
                if sequence == self.sequence:
                    if answer in (NLMSG_DONE, NLMSG_ERROR):
                        return
                    yield answer, data[16:length]
                data = data[length + (-length % 4):]


class View:
    def __init__(self, address: str) -> None:
        self.address = socket.inet_aton(address)
        self.route, self.tables = Netlink(NETLINK_ROUTE), Netlink(NETLINK_NETFILTER)

    def has_address(self) -> bool:
        there = False
        for kind, body in self.route.dump(RTM_GETADDR, struct.pack("=BBBBi", socket.AF_INET, 0, 0, 0, 0)):
            for name, value in attributes(body[8:]):
                there |= kind == RTM_NEWADDR and name in (IFA_ADDRESS, IFA_LOCAL) and value == self.address
        return there

    def has_lease(self) -> bool:
        """A token that has ended is not shown any more."""
        body = struct.pack("=BBH", NFPROTO_INET, 0, 0)
        body += attribute(ATTRIBUTE_LIST_TABLE, b"failoverd\0") + attribute(ATTRIBUTE_LIST_SET, b"lease\0")
        tokens = 0
        for kind, answer in self.tables.dump(NFT_GETSETELEM, body):
            for name, value in attributes(answer[4:]):
                if kind == NFT_NEWSETELEM and name == ATTRIBUTE_LIST_ELEMENTS:
                    tokens += sum(1 for _ in attributes(value))
        return tokens > 0


def main(address: str, out: str) -> None:
    view = View(address)
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    absent = {"address": 0, "lease": 0}
    samples, longest_s, first_absent = 0, 0.0, None
    last = time.monotonic()
    while not ended:
        seen = {"address": view.has_address(), "lease": view.has_lease()}
        now = time.monotonic()
        # Between two samples nothing is known: the longest such time belongs to the answer.
        longest_s = max(longest_s, now - last)
        last = now
        samples += 1
        for what, there in seen.items():
            if not there:
                absent[what] += 1
                first_absent = first_absent or f"{what} at {time.time():.3f}"
        time.sleep(PAUSE_S)
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"samples": samples, "longest_ms": longest_s * 1000, "absent": absent, "first_absent": first_absent}, file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
