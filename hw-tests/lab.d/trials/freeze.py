"""The MASTER freezes and wakes up late: meanwhile the other one has taken over, and nothing that it still does counts."""

import time

import faults
import install
import pair
import remote
import scenario
from check import Check
from topology import LabError, Machine

# Longer than the takeover, so that the client writes to the heir before the old one wakes up.
STILL_S = 5.0


def run(check: Check) -> None:
    """The whole machine freezes while its clocks go on, and thaws when the other one serves.

    Expected: the heir is MASTER; the old one finds its disks taken, resets itself and comes back as BACKUP; no write of
    it lands behind the heir's (the oracle's order), and it may not write.
    """
    with scenario.Scene(check, "freeze") as scene:
        frozen, heir = scene.master, scene.standby
        scene.mark(f"{frozen.name} freezes")
        remote.disconnect(frozen)
        faults.freeze(frozen)
        scene.undo(lambda: faults.thaw(frozen) if faults.power(frozen) == "frozen" else None)
        scene.taken_over(heir)
        time.sleep(STILL_S)
        scene.note(f"{frozen.name} thaws")
        faults.thaw(frozen)
        scene.resets_itself(frozen)
        scene.back_as_standby(frozen)
        scene.alarm(frozen, "RESET_BEFORE", "WATCHDOG_RESET")
        scene.steady("after it came back")
        check.figures.append(scene.gap_figure())


def daemon(check: Check) -> None:
    """The MASTER's daemon is stopped (SIGSTOP) while its kernel, its services and its pools go on.

    Expected: the heir is MASTER; the old one's disks refuse its writes, its ZFS pool is suspended, its clients hear
    nothing (the kernel's lease); once the daemon goes on, or the watchdog bites, the machine resets itself.
    """
    with scenario.Scene(check, "freeze_daemon") as scene:
        frozen, heir = scene.master, scene.standby
        scene.mark(f"the daemon of {frozen.name} is stopped")
        remote.must(frozen, "systemctl kill --kill-whom=main --signal=SIGSTOP failoverd")
        scene.taken_over(heir)
        check.that(f"{frozen.name}'s direct write is refused", not pair.disk_takes_write(frozen, 0))
        check.that("a new file of the old one never becomes durable", not _write_lasts(frozen))
        if install.layout().fs == "zfs":
            said = remote.run(frozen, "cat /proc/spl/kstat/zfs/tank/state").out.strip()
            check.that(f"{frozen.name}'s pool is suspended", said == "SUSPENDED", said)
        scene.note(f"the daemon of {frozen.name} goes on")
        # The watchdog may have been faster.
        try:
            remote.run(frozen, "systemctl kill --kill-whom=main --signal=SIGCONT failoverd")
        except LabError:
            pass
        scene.resets_itself(frozen)
        scene.back_as_standby(frozen)
        scene.alarm(frozen, "RESET_BEFORE", "WATCHDOG_RESET")
        scene.steady("after it came back")


def _write_lasts(machine: Machine) -> bool:
    """Whether a write to the pool can be flushed; one that hangs in the kernel is none."""
    name = f"{install.mountpoint('tank')}/stray"
    command = f"(timeout -s KILL 20 sh -c 'echo stray >{name} && sync {name}' && echo LASTS) & sleep 15; jobs -p >/dev/null"
    try:
        return "LASTS" in remote.run(machine, command, 40.0).out
    except LabError:
        return False
