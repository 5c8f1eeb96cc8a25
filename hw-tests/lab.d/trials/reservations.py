"""The enclosure enforces persistent reservations: what fencing rests on.

For every shared disk: a controller without the reservation can write while there is none and can't once there is; a
preempt-and-abort takes the disk away from its holder, whose next write is refused and leaves no trace on the medium.
"""

import subprocess

import conformance as lines
import install
import remote
import scsi
import session
import state
from check import Check, Skip
from topology import A, B, CONTROLLERS, ENCLOSURE, LabError

KEY_A = "0xa000000000000001"
KEY_B = "0xb000000000000002"


def run(check: Check) -> None:
    disks = range(state.load().disks)
    paths = [session.disk_path(disk) for disk in disks]
    seen = {one.name: remote.must(one, f"lsblk -dno WWN {' '.join(paths)}").split() for one in CONTROLLERS}
    wanted = [f"0x{session.disk_identity(disk)}" for disk in disks]
    for one in CONTROLLERS:
        check.that(f"{one.name} sees all {len(disks)} disks by their names", sorted(seen[one.name]) == wanted, seen)
    for disk, path in zip(disks, paths):
        _one_disk(check, disk, path)


def conformance(check: Check) -> None:
    """The enclosure answers every step of the conformance list as the list and its known differences say.

    The list is agent/sim/src/conformance/list.txt, the differences are beside it; the emulated disks run the same one. Each
    controller sends over every path that it has. Cases that need a second path are skipped, by name, without one.
    """
    if state.load().protocol != "scsi":
        raise Skip("the list is of SCSI's reservations")
    program = install.folder_of(None) / install.CONFORMANCE
    if not program.is_file():
        raise LabError(f"{program} is not there: `cargo build -p hw-tests`")
    for one in CONTROLLERS:
        install.put_program(one, program, f"/usr/local/sbin/{install.CONFORMANCE}")
    command = [str(program), "judge", "--paths", str(state.load().paths)]
    with lines.Nexuses() as nexuses, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as judge:
        for line in judge.stdout:
            word, _, rest = line.rstrip("\n").partition(" ")
            if word != "told":
                answer = nexuses.carry_out(word, rest)
                if answer is not None:
                    judge.stdin.write(f"{answer}\n")
                    judge.stdin.flush()
            elif rest.startswith("SKIPPED"):
                print(f"  {rest}")
            elif rest.startswith("summary: "):
                check.figures.append(rest.removeprefix("summary: "))
            else:
                check.that(rest.removeprefix("ok: "), rest.startswith("ok: "))
    check.that("the list came to its end, without a difference that isn't known", judge.returncode == 0, judge.returncode)


def _one_disk(check: Check, disk: int, path: str) -> None:
    for one in CONTROLLERS:
        scsi.clear(one, path)
    label = f"disk {disk}"
    check.that(f"{label}: unreserved, takes a write of b", scsi.write(B, path, "free") and scsi.read(A, path) == "free", scsi.read(A, path))

    scsi.must(A, path, f"--out --register --param-aptpl --param-sark={KEY_A}")
    scsi.must(A, path, f"--out --reserve --param-rk={KEY_A} --prout-type={scsi.WRITE_EXCLUSIVE_REGISTRANTS_ONLY}")
    check.that(f"{label}: b reads a's key", scsi.keys(B, path) == {KEY_A}, scsi.keys(B, path))
    check.that(f"{label}: takes a write of its holder a", scsi.write(A, path, "held by a"))
    check.that(f"{label}: refuses a write of b, not registered", not scsi.write(B, path, "stray of b"))
    check.that(f"{label}: lets b read, and holds a's data", scsi.read(B, path) == "held by a", scsi.read(B, path))
    stored = remote.run(ENCLOSURE, f"grep -rl sa_res_key={int(KEY_A, 16)} /etc/target/pr").out
    check.that(f"{label}: its reservation is stored for a power loss", stored != "", stored)

    scsi.must(B, path, f"--out --register --param-sark={KEY_B}")
    take = f"--out --preempt-abort --param-rk={KEY_B} --param-sark={KEY_A}"
    scsi.must(B, path, f"{take} --prout-type={scsi.WRITE_EXCLUSIVE_REGISTRANTS_ONLY}")
    check.that(f"{label}: after preempt-and-abort only b's key is left", scsi.keys(B, path) == {KEY_B}, scsi.keys(B, path))
    check.that(f"{label}: refuses a write of a, the old holder", not scsi.write(A, path, "stray of a"))
    check.that(f"{label}: takes a write of its new holder b", scsi.write(B, path, "held by b"))
    check.that(f"{label}: refuses a write of a again", not scsi.write(A, path, "stray of a"))
    check.that(f"{label}: holds b's data", scsi.read(B, path) == "held by b", scsi.read(B, path))
    holder = scsi.persist(A, path, "--in --read-reservation").out
    check.that(f"{label}: a reads that b holds it", f"Key={KEY_B}" in holder, holder)
    scsi.must(B, path, f"--out --clear --param-rk={KEY_B}")
