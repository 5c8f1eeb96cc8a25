"""Asks one network card, by its hardware address, for the virtual address, and notes each answer.

Runs in the lab's network: `python3 stale.py INTERFACE MAC ADDRESS SECONDS`. Prints a line for each answer: the time of
this computer's wall clock. Nobody's neighbour table has a say in it, so a controller that still answers for an address that
has moved is heard.
"""

import socket
import struct
import sys
import time

INTERVAL_S = 0.01
ETHERTYPE_IPV4 = 0x0800
IDENTIFIER = 0x1AB


def main() -> None:
    interface, mac, address, seconds = sys.argv[1:]
    line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE_IPV4))
    line.bind((interface, 0))
    line.settimeout(INTERVAL_S)
    own_mac = line.getsockname()[4]
    own = _address_of(interface)
    target = bytes.fromhex(mac.replace(":", ""))
    until = time.time() + float(seconds)
    number = 0
    due = time.time()
    while (now := time.time()) < until:
        if now >= due:
            due = now + INTERVAL_S
            number = (number + 1) & 0xFFFF
            line.send(target + own_mac + struct.pack("!H", ETHERTYPE_IPV4) + _echo(own, address, number))
        try:
            frame = line.recv(2048)
        except TimeoutError:
            continue
        if _is_answer(frame, target, address):
            print(f"{time.time():.6f}", flush=True)


def _address_of(interface: str) -> str:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        siocgifaddr = 0x8915
        answer = fcntl.ioctl(one, siocgifaddr, struct.pack("256s", interface.encode()))
    return socket.inet_ntoa(answer[20:24])


def _echo(source: str, target: str, number: int) -> bytes:
    """An IPv4 packet with an ICMP echo request."""
    icmp = struct.pack("!BBHHH", 8, 0, 0, IDENTIFIER, number)
    icmp = struct.pack("!BBHHH", 8, 0, _checksum(icmp), IDENTIFIER, number)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(icmp), number, 0, 64, 1, 0,
                       socket.inet_aton(source), socket.inet_aton(target))
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + icmp


def _is_answer(frame: bytes, target: bytes, address: str) -> bool:
    """An echo reply to us from this card and this address."""
    return (len(frame) >= 42 and frame[6:12] == target and frame[23] == 1 and frame[26:30] == socket.inet_aton(address)
            and frame[34] == 0 and struct.unpack("!H", frame[38:40])[0] == IDENTIFIER)


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


if __name__ == "__main__":
    main()
