"""The faults do what they say: each is looked at from a machine that it should reach and from one that it should not.

Power, freeze and pause, and every link of every controller. Needs no daemon.
"""

import time

import faults
import remote
import session
import state
from check import Check
from topology import A, B, Machine

STILL_S = 3.0
# Neighbours are looked for again, sessions log in again: seconds, under emulation.
MENDED_S_MAX = 30.0
BOOT_S_MAX = 120.0


def run(check: Check) -> None:
    _links(check)
    _frozen(check)
    _paused(check)
    _power(check)


def _links(check: Check) -> None:
    for link in ("hb0", "hb1", "lan"):
        spared = "hb1" if link == "hb0" else "hb0"
        check.that(f"{link}: passes", _reaches(A, B, link))
        faults.link_down(A, link)
        check.that(f"{link} down: a has no carrier, b has", not _carrier(A, link) and _carrier(B, link))
        check.that(f"{link} down: nothing passes, {spared} does", not _reaches(A, B, link) and _reaches(A, B, spared))
        faults.link_up(A, link)
        check.that(f"{link} up: a has a carrier", _carrier(A, link))
        check.that(f"{link} up: passes", _until(lambda: _reaches(A, B, link), MENDED_S_MAX))
        faults.link_cut(A, link)
        check.that(f"{link} cut: a still has a carrier", _carrier(A, link))
        check.that(f"{link} cut: nothing passes, {spared} does", not _reaches(A, B, link) and _reaches(A, B, spared))
        faults.link_up(A, link)
        check.that(f"{link} joined: passes", _until(lambda: _reaches(A, B, link), MENDED_S_MAX))
    path = session.disk_path(0)
    check.that("san: a reads a shared disk", _can_read(A, path))
    faults.link_down(A, "san")
    check.that("san down: a can't read it, b can", not _can_read(A, path) and _can_read(B, path))
    faults.link_up(A, "san")
    check.that("san up: a reads it again", _until(lambda: _can_read(A, path), MENDED_S_MAX))


def _frozen(check: Check) -> None:
    before = _clock(A)
    faults.freeze(A)
    check.that("freeze: the lab says so", faults.power(A) == "frozen", faults.power(A))
    check.that("freeze: a doesn't answer b", not _reaches(B, A, "hb0"))
    time.sleep(STILL_S)
    faults.thaw(A)
    went = _clock(A) - before
    check.that("thaw: a's clock has gone on", went >= STILL_S, went)
    check.that("thaw: a answers b", _until(lambda: _reaches(B, A, "hb0"), MENDED_S_MAX))


def _paused(check: Check) -> None:
    before = _clock(A)
    began = time.monotonic()
    faults.pause(A)
    check.that("pause: the lab says so", faults.power(A) == "paused", faults.power(A))
    check.that("pause: a doesn't answer b", not _reaches(B, A, "hb0"))
    time.sleep(STILL_S)
    faults.resume(A)
    lost = (time.monotonic() - began) - (_clock(A) - before)
    check.that("resume: a's clock stood still meanwhile", lost >= STILL_S, lost)
    check.that("resume: a answers b", _until(lambda: _reaches(B, A, "hb0"), MENDED_S_MAX))


def _power(check: Check) -> None:
    boot = remote.must(A, "cat /proc/sys/kernel/random/boot_id")
    remote.must(A, "echo kept >/var/lib/kept && sync /var/lib/kept && echo lost >/run/lost")
    faults.power_off(A)
    check.that("power off: the lab says so", faults.power(A) == "off", faults.power(A))
    check.that("power off: a doesn't answer b", not _reaches(B, A, "hb0"))
    began = time.monotonic()
    faults.power_on(A)
    remote.wait_until_up(A, BOOT_S_MAX)
    print(f"  a answers {time.monotonic() - began:.1f} s after power on")
    check.that("power on: it is another boot", remote.must(A, "cat /proc/sys/kernel/random/boot_id") != boot)
    check.that("power on: what was synced is kept", remote.run(A, "cat /var/lib/kept; ls /run/lost").out == "kept\n")
    session.wait_for_disks(A, state.load().disks)
    print(f"  a has its disks {time.monotonic() - began:.1f} s after power on")


def _reaches(here: Machine, there: Machine, link: str) -> bool:
    return remote.run(here, f"ping -c 1 -W 2 -I {link} {there.address(link)}").code == 0


def _carrier(machine: Machine, link: str) -> bool:
    return remote.must(machine, f"cat /sys/class/net/{link}/carrier").strip() == "1"


def _can_read(machine: Machine, path: str) -> bool:
    command = f"timeout 15 dd if={path} of=/dev/null bs=4096 count=1 iflag=direct"
    return remote.run(machine, command, 40.0).code == 0


def _clock(machine: Machine) -> float:
    """Seconds since the machine's boot."""
    return float(remote.must(machine, "cut -d ' ' -f 1 /proc/uptime"))


def _until(holds, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
    return True
