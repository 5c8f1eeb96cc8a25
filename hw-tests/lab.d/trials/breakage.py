"""The faults do what they say: each is looked at from a machine that it should reach and from one that it should not.

Power, freeze, pause, panic, a hang that the watchdog ends, the clock, and every link. Needs no daemon.
"""

import time

import events
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
LOSS_PERCENT = 30
PINGS = 40
BITE_S = 6
# Arms the watchdog (WDIOC_SETTIMEOUT) and pets it every second, for as long as it gets the processor.
PET = f"""
import fcntl, struct, time
with open("/dev/watchdog0", "wb", buffering=0) as watchdog:
    fcntl.ioctl(watchdog, 0xC0045706, struct.pack("i", {BITE_S}))
    while True:
        watchdog.write(b"x")
        time.sleep(1)
"""


def run(check: Check) -> None:
    _links(check)
    _frozen(check)
    _paused(check)
    _clock_steps(check)
    _power(check)
    _panics(check)
    _bitten(check)


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
    faults.link_loss(A, "hb0", LOSS_PERCENT)
    got = _answers(A, B, "hb0")
    check.that(f"hb0 loses {LOSS_PERCENT} % each way: some packets pass", 0 < got < PINGS, got)
    check.that("hb0 loses: hb1 does not", _answers(A, B, "hb1") == PINGS)
    faults.link_up(A, "hb0")
    check.that("hb0 up: nothing is lost", _answers(A, B, "hb0") == PINGS)


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


def _clock_steps(check: Check) -> None:
    for seconds in (3600, -7200):
        before = _wall_clock(A) - time.time()
        faults.clock_step(A, seconds)
        went = _wall_clock(A) - time.time() - before
        check.that(f"clock-step {seconds}: a's clock jumps", abs(went - seconds) < 5, went)
    faults.heal()
    check.that("heal: a's clock is right", abs(_wall_clock(A) - time.time()) < 5, _wall_clock(A) - time.time())


def _panics(check: Check) -> None:
    boot, began_s = _boot_id(A), time.time()
    faults.panic(A)
    events.wait(A, "RESET", began_s, BOOT_S_MAX)
    remote.wait_until_up(A, BOOT_S_MAX)
    check.that("panic: it is another boot", _boot_id(A) != boot)
    session.wait_for_disks(A, state.load().disks)


def _bitten(check: Check) -> None:
    boot, began_s = _boot_id(A), time.time()
    remote.must(A, "cat >/run/pet", text_in=PET)
    remote.must(A, "setsid python3 /run/pet >/dev/null 2>&1 </dev/null & sleep 3; cat /sys/class/watchdog/watchdog0/state")
    time.sleep(2 * BITE_S)
    check.that("watchdog: doesn't bite while it is petted", not _bites(began_s) and _boot_id(A) == boot)
    faults.hang(A)
    events.wait(A, "WATCHDOG", began_s, 10 * BITE_S)
    check.that("hang: the watchdog bites, once", len(_bites(began_s)) == 1, _bites(began_s))
    remote.wait_until_up(A, BOOT_S_MAX)
    check.that("hang: it is another boot", _boot_id(A) != boot)
    session.wait_for_disks(A, state.load().disks)


def _bites(since_s: float) -> list[events.Event]:
    return [event for event in events.read(A, since_s) if event.name == "WATCHDOG"]


def _boot_id(machine: Machine) -> str:
    return remote.must(machine, "cat /proc/sys/kernel/random/boot_id").strip()


def _answers(here: Machine, there: Machine, link: str) -> int:
    """How many of so many pings come back."""
    said = remote.run(here, f"ping -c {PINGS} -i 0.05 -W 2 -I {link} {there.address(link)}").out
    return int(said.split(" received")[0].split()[-1])


def _wall_clock(machine: Machine) -> float:
    return float(remote.must(machine, "date +%s"))


def _reaches(here: Machine, there: Machine, link: str) -> bool:
    return remote.run(here, f"ping -c 1 -W 2 -I {link} {there.address(link)}").code == 0


def _carrier(machine: Machine, link: str) -> bool:
    return remote.must(machine, f"cat /sys/class/net/{link}/carrier").strip() == "1"


def _clock(machine: Machine) -> float:
    """Seconds since the machine's boot."""
    return float(remote.must(machine, "cut -d ' ' -f 1 /proc/uptime"))


def _until(holds, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
    return True
