"""The enclosure enforces persistent reservations: what fencing rests on.

For every shared disk: a controller without the reservation can write while there is none and can't once there is; a
preempt-and-abort takes the disk away from its holder, whose next write is refused and leaves no trace on the medium.
"""

import remote
import session
import state
from check import Check
from topology import A, B, CONTROLLERS, ENCLOSURE, LabError, Machine

KEY_A = "0xa000000000000001"
KEY_B = "0xb000000000000002"
WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
BLOCK = 4096


def run(check: Check) -> None:
    disks = range(state.load().disks)
    paths = [session.disk_path(disk) for disk in disks]
    seen = {one.name: remote.must(one, f"lsblk -dno WWN {' '.join(paths)}").split() for one in CONTROLLERS}
    wanted = [f"0x{session.disk_identity(disk)}" for disk in disks]
    for one in CONTROLLERS:
        check.that(f"{one.name} sees all {len(disks)} disks by their names", sorted(seen[one.name]) == wanted, seen)
    for disk, path in zip(disks, paths):
        _one_disk(check, disk, path)


def _one_disk(check: Check, disk: int, path: str) -> None:
    for one in CONTROLLERS:
        # Ends what an earlier run may have left; a disk without a reservation takes it too.
        _persist(one, path, "--out --register-ignore --param-sark=0x1")
        _persist(one, path, "--out --clear --param-rk=0x1")
    label = f"disk {disk}"
    check.that(f"{label}: unreserved, takes a write of b", _write(B, path, "free") and _read(A, path) == "free", _read(A, path))

    _must(A, path, f"--out --register --param-aptpl --param-sark={KEY_A}")
    _must(A, path, f"--out --reserve --param-rk={KEY_A} --prout-type={WRITE_EXCLUSIVE_REGISTRANTS_ONLY}")
    check.that(f"{label}: b reads a's key", _keys(B, path) == {KEY_A}, _keys(B, path))
    check.that(f"{label}: takes a write of its holder a", _write(A, path, "held by a"))
    check.that(f"{label}: refuses a write of b, not registered", not _write(B, path, "stray of b"))
    check.that(f"{label}: lets b read, and holds a's data", _read(B, path) == "held by a", _read(B, path))
    stored = remote.run(ENCLOSURE, f"grep -rl sa_res_key={int(KEY_A, 16)} /etc/target/pr").out
    check.that(f"{label}: its reservation is stored for a power loss", stored != "", stored)

    _must(B, path, f"--out --register --param-sark={KEY_B}")
    take = f"--out --preempt-abort --param-rk={KEY_B} --param-sark={KEY_A}"
    _must(B, path, f"{take} --prout-type={WRITE_EXCLUSIVE_REGISTRANTS_ONLY}")
    check.that(f"{label}: after preempt-and-abort only b's key is left", _keys(B, path) == {KEY_B}, _keys(B, path))
    check.that(f"{label}: refuses a write of a, the old holder", not _write(A, path, "stray of a"))
    check.that(f"{label}: takes a write of its new holder b", _write(B, path, "held by b"))
    check.that(f"{label}: refuses a write of a again", not _write(A, path, "stray of a"))
    check.that(f"{label}: holds b's data", _read(B, path) == "held by b", _read(B, path))
    holder = _persist(A, path, "--in --read-reservation").out
    check.that(f"{label}: a reads that b holds it", f"Key={KEY_B}" in holder, holder)
    _must(B, path, f"--out --clear --param-rk={KEY_B}")


def _persist(machine: Machine, path: str, words: str) -> remote.Result:
    # The first command after somebody else's change answers only that there was one (a unit attention); ask again.
    return remote.run(machine, f"sg_persist --no-inquiry {words} {path} || sg_persist --no-inquiry {words} {path}")


def _must(machine: Machine, path: str, words: str) -> None:
    remote.must(machine, f"sg_turs -q {path}; sg_persist --no-inquiry {words} {path}")


def _keys(machine: Machine, path: str) -> set[str]:
    text = _persist(machine, path, "--in --read-keys").out
    return {line.strip() for line in text.splitlines() if line.strip().startswith("0x")}


def _write(machine: Machine, path: str, text: str) -> bool:
    """Past the page cache; whether the disk took it. Another failure than a refusal is an error."""
    command = f"dd of={path} bs={BLOCK} conv=sync,notrunc iflag=fullblock oflag=direct status=none"
    result = remote.run(machine, command, text_in=text)
    refused = result.code != 0 and "Invalid exchange" in result.err  # EBADE: reservation conflict
    if result.code != 0 and not refused:
        raise LabError(f"{machine.name}: write of {path} failed, but not by a reservation: {result.err.strip()}")
    return not refused


def _read(machine: Machine, path: str) -> str:
    command = f"dd if={path} bs={BLOCK} count=1 iflag=direct status=none"
    return remote.must(machine, command).rstrip("\0")
