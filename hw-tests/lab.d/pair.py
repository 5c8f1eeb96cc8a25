"""The installed pair as a tester sees it: who serves, does the virtual address answer, what do the disks refuse."""

import subprocess
import sys
import time

import install
import network
import remote
import session
from topology import A, B, CONTROLLERS, LabError, Machine


def public_state(machine: Machine) -> str:
    """The word of `failover.status`, or nothing while the machine or its daemon doesn't answer."""
    try:
        return remote.run(machine, "midctl call failover.status", 20.0).out.strip()
    except LabError:
        return ""


def other(machine: Machine) -> Machine:
    return B if machine is A else A


def wait_for(machine: Machine, wanted: str, timeout_s: float) -> float:
    """Seconds until the machine says this state; an error that names what it said last otherwise."""
    began = time.monotonic()
    while (said := public_state(machine)) != wanted:
        if time.monotonic() - began > timeout_s:
            raise LabError(f"{machine.name} says {said!r} and not {wanted} after {timeout_s:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - began


def wait_for_master(timeout_s: float) -> Machine:
    """The one that serves, once the other one stands by."""
    began = time.monotonic()
    while True:
        said = {one.name: public_state(one) for one in CONTROLLERS}
        for one in CONTROLLERS:
            if said[one.name] == "MASTER" and said[other(one).name] == "BACKUP":
                return one
        if time.monotonic() - began > timeout_s:
            raise LabError(f"no MASTER with a BACKUP after {timeout_s:.0f} s: {said}")
        time.sleep(0.5)


def address_answers() -> bool:
    """Whether a client on the LAN can connect to the virtual address within 3 s; sshd listens on it like on any."""
    ask = f"import socket; socket.create_connection(({install.VIRTUAL_ADDRESS!r}, 22), 3).recv(1)"
    command = network.inside([sys.executable, "-c", ask])
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def has_address(machine: Machine) -> bool:
    return install.VIRTUAL_ADDRESS in remote.must(machine, "ip -4 -brief address show dev lan")


def has_pool(machine: Machine) -> bool:
    return remote.run(machine, f"mountpoint -q {install.MOUNTPOINT}").code == 0


def disk_takes_write(machine: Machine, disk: int) -> bool:
    """Whether a shared disk, one that holds no pool, takes a write of this machine."""
    path = session.disk_path(disk)
    return remote.run(machine, f"dd if=/dev/zero of={path} bs=4096 count=1 oflag=direct conv=notrunc").code == 0


def write_record(machine: Machine, text: str) -> None:
    remote.must(machine, f"echo {text} >>{install.MOUNTPOINT}/records && sync {install.MOUNTPOINT}/records")


def records(machine: Machine) -> list[str]:
    return remote.run(machine, f"cat {install.MOUNTPOINT}/records").out.split()
