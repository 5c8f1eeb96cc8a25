"""The enclosure's NVMe disks enforce reservations, as its SCSI disks do: a host is one registrant, by whichever path.

Needs `lab up --nvme`, no daemon.
"""

import remote
import session
import state
from check import Check, Skip
from topology import A, B, Machine

KEY_A = "0xa000000000000005"
KEY_B = "0xb000000000000006"
WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 3
ACQUIRE, PREEMPT = 0, 1
CONFLICT = "Reservation Conflict"


def run(check: Check) -> None:
    if state.load().protocol != "nvme":
        raise Skip("needs `lab up --nvme`")
    for disk in range(state.load().disks):
        _one_disk(check, disk)


def _one_disk(check: Check, disk: int) -> None:
    label = f"disk {disk}"
    for one in (A, B):
        # Ends what an earlier run may have left, whatever key this host had.
        _nvme(one, disk, "resv-register --nrkey=0x1 --rrega=0 --iekey --cptpl=0")
        _nvme(one, disk, "resv-release --crkey=0x1 --rrela=1")
    check.that(f"{label}: unreserved, takes a write of b", _writes(B, disk))
    _must(A, disk, f"resv-register --nrkey={KEY_A} --rrega=0 --cptpl=0")
    _must(A, disk, f"resv-acquire --crkey={KEY_A} --rtype={WRITE_EXCLUSIVE_REGISTRANTS_ONLY} --racqa={ACQUIRE}")
    check.that(f"{label}: b reads that a holds it", _holders(B, disk) == {KEY_A: True}, _holders(B, disk))
    check.that(f"{label}: takes a write of its holder a", _writes(A, disk))
    check.that(f"{label}: refuses a write of b, not registered", not _writes(B, disk))
    _must(B, disk, f"resv-register --nrkey={KEY_B} --rrega=0 --cptpl=0")
    check.that(f"{label}: takes a write of b, registered", _writes(B, disk))
    take = f"resv-acquire --crkey={KEY_B} --prkey={KEY_A} --rtype={WRITE_EXCLUSIVE_REGISTRANTS_ONLY} --racqa={PREEMPT}"
    _must(B, disk, take)
    check.that(f"{label}: after a preempt only b's key is left", _holders(A, disk) == {KEY_B: True}, _holders(A, disk))
    check.that(f"{label}: refuses a write of a", not _writes(A, disk))
    said = _nvme(A, disk, f"resv-acquire --crkey={KEY_A} --rtype={WRITE_EXCLUSIVE_REGISTRANTS_ONLY} --racqa={ACQUIRE}")
    check.that(f"{label}: refuses to be taken by a's old key", said.code != 0 and CONFLICT in said.out + said.err, said)
    _must(B, disk, f"resv-release --crkey={KEY_B} --rrela=1")


def _nvme(machine: Machine, disk: int, words: str) -> remote.Result:
    verb, _, rest = words.partition(" ")
    return remote.run(machine, f"nvme {verb} {session.disk_path(disk)} {rest}")


def _must(machine: Machine, disk: int, words: str) -> None:
    verb, _, rest = words.partition(" ")
    remote.must(machine, f"nvme {verb} {session.disk_path(disk)} {rest}")


def _holders(machine: Machine, disk: int) -> dict[str, bool]:
    """Key -> whether it holds the reservation, of every registrant."""
    found, holds = {}, False
    for line in _nvme(machine, disk, "resv-report -e").out.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "rcsts":
            holds = value == "1"
        elif name == "rkey":
            found[f"0x{value}"] = holds
    return found


def _writes(machine: Machine, disk: int) -> bool:
    command = f"dd if=/dev/zero of={session.disk_path(disk)} bs=4096 count=1 oflag=direct conv=notrunc status=none"
    return remote.run(machine, command).code == 0
