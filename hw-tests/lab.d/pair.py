"""The installed pair as a tester sees it: who serves, what it says of itself, what the disks refuse."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass

import install
import network
import remote
import session
import topology
from topology import A, B, CONTROLLERS, ENCLOSURE, LabError, Machine


def public_state(machine: Machine) -> str:
    """The word of `failover.status`, or nothing while the machine or its daemon doesn't answer."""
    try:
        return remote.run(machine, "midctl --timeout 10 call failover.status", 20.0).out.strip()
    except LabError:
        return ""


def state(machine: Machine) -> dict:
    """All of `failover.state`; empty while it doesn't answer."""
    try:
        return json.loads(remote.run(machine, "midctl --json --timeout 10 call failover.state", 20.0).out)
    except (LabError, ValueError):
        return {}


def other(machine: Machine) -> Machine:
    return B if machine.name == A.name else A


def wait_for(machine: Machine, wanted: str, timeout_s: float) -> float:
    """Seconds until the machine says this state; an error that names what it said last otherwise."""
    began = time.monotonic()
    while (said := public_state(machine)) != wanted:
        enclosure_runs()
        if time.monotonic() - began > timeout_s:
            raise LabError(f"{machine.name} says {said!r} and not {wanted} after {timeout_s:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - began


def master_of_pair() -> Machine | None:
    """The one that serves, if the other one stands by and could take over at once."""
    said = {one.name: state(one) for one in CONTROLLERS}
    for one in CONTROLLERS:
        standby = said[other(one).name]
        if said[one.name].get("status") == "MASTER" and standby.get("status") == "BACKUP" and standby.get("eligible"):
            return one
    return None


def wait_for_master(timeout_s: float) -> Machine:
    """The one that serves, once the other one stands by and could take over."""
    began = time.monotonic()
    while (found := master_of_pair()) is None:
        enclosure_runs()
        if time.monotonic() - began > timeout_s:
            said = {one.name: short(state(one)) for one in CONTROLLERS}
            raise LabError(f"no MASTER with a BACKUP that could take over after {timeout_s:.0f} s: {said}")
        time.sleep(0.5)
    return found


def enclosure_runs() -> None:
    """An error where the enclosure's kernel said that it has locked up: nothing that is waited for will come then."""
    if remote.reach is None and b"soft lockup" in _console_of_enclosure():
        raise LabError("the enclosure's kernel has locked up: see its console's log")


def panics_of_enclosure() -> int:
    """How often its kernel has panicked since the lab is up; it boots by itself after each."""
    return _console_of_enclosure().count(b"Kernel panic") if remote.reach is None else 0


def _console_of_enclosure() -> bytes:
    return (topology.running() / f"{ENCLOSURE.name}.console.log").read_bytes()


def short(said: dict) -> str:
    """A state for an error's text."""
    return f"{said.get('status', 'no answer')} ({said.get('why', '')}; {', '.join(said.get('blockers', []))})"


def boot_id(machine: Machine) -> str:
    """Which boot of the machine this is; nothing while it doesn't answer."""
    try:
        return remote.must(machine, "cat /proc/sys/kernel/random/boot_id", 10.0).strip()
    except LabError:
        return ""


def wait_for_boot(machine: Machine, before: str, timeout_s: float) -> float:
    """Seconds until the machine is in another boot than `before` and has its disks."""
    began = time.monotonic()
    while (now := boot_id(machine)) in ("", before):
        if time.monotonic() - began > timeout_s:
            raise LabError(f"{machine.name} is not in another boot after {timeout_s:.0f} s: {'the same' if now else 'no answer'}")
        time.sleep(0.5)
    return time.monotonic() - began


@dataclass(frozen=True)
class Clock:
    """One look at a machine's clocks: add `ahead_s` to its wall clock to get this computer's."""

    boot: str
    booted_s: float  # its wall clock at its boot
    ahead_s: float


def clock(machine: Machine) -> Clock | None:
    """Good to half of the answer's time, some 20 ms; nothing while the machine doesn't answer."""
    try:
        before = time.time()
        words = remote.must(machine, "date +%s.%N; cat /proc/uptime /proc/sys/kernel/random/boot_id", 10.0).split()
        after = time.time()
    except LabError:
        return None
    wall = float(words[0])
    return Clock(words[3], wall - float(words[1]), (before + after) / 2 - wall)


def history(machine: Machine) -> list[dict]:
    """The newest transitions, oldest first; empty while it doesn't answer."""
    try:
        return json.loads(remote.must(machine, "midctl --json history --number 200"))
    except (LabError, ValueError):
        return []


def messages(machine: Machine, since_s: float) -> list[dict]:
    """What the daemon has logged since a time of its wall clock: dicts of `at_s`, `id`, `text` and `priority`."""
    command = f"journalctl -u failoverd -o json --no-pager --since=@{since_s:.3f} " \
              "--output-fields=MESSAGE,FAILOVER_ID,PRIORITY | tail -n 400"
    found = []
    for line in remote.run(machine, command, 60.0).out.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        text = entry.get("MESSAGE", "")
        if isinstance(text, str):
            found.append({"at_s": int(entry["__REALTIME_TIMESTAMP"]) / 1e6, "id": entry.get("FAILOVER_ID", ""),
                          "text": text, "priority": int(entry.get("PRIORITY", 6))})
    return found


def address_answers(address: str = install.VIRTUAL_ADDRESS) -> bool:
    """Whether a client on the LAN can connect to the virtual address within 3 s; sshd listens on it like on any."""
    ask = f"import socket; socket.create_connection(({address!r}, 22), 3).recv(1)"
    command = network.client([sys.executable, "-c", ask])
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def has_address(machine: Machine, address: str = install.VIRTUAL_ADDRESS) -> bool:
    return f"{address}/" in remote.must(machine, "ip -4 -brief address show dev lan")


def has_pool(machine: Machine, pool: str = "tank") -> bool:
    return remote.run(machine, f"mountpoint -q {install.mountpoint(pool)}").code == 0


def disk_takes_write(machine: Machine, disk: int) -> bool:
    """Whether a shared disk takes a write of this machine: its last block, where neither pools nor labels are."""
    path = session.disk_path(disk)
    last = f"$(( $(blockdev --getsz {path}) / 8 - 1 ))"
    command = f"dd if=/dev/zero of={path} bs=4096 seek={last} count=1 oflag=direct conv=notrunc"
    return remote.run(machine, command).code == 0
