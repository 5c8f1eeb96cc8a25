"""One controller loses every path to the disks."""

import faults
import pair
import scenario
from check import Check

HOLD_S = 20.0
GAP_S_MAX = 4.0


def of_master(check: Check) -> None:
    """The MASTER's storage cables are cut. Expected: it can't prove that it owns, so its addresses fall silent and it
    resets itself; the heir is MASTER; with its cables back the old one is BACKUP."""
    with scenario.Scene(check, "storage_of_master") as scene:
        old, heir = scene.master, scene.standby
        scene.mark(f"every path of {old.name} to the disks is cut")
        faults.storage_down(old)
        scene.undo(lambda: faults.storage_up(old))
        scene.taken_over(heir)
        scene.resets_itself(old)
        faults.storage_up(old)
        scene.back_as_standby(old)
        scene.alarm(old, "RESET_BEFORE")
        scene.steady("after it came back")
        check.figures.append(scene.gap_figure())


def of_backup(check: Check) -> None:
    """The BACKUP's storage cables are cut. Expected: no transition, the client misses nothing; the BACKUP says that it
    can't take over until the cables are back."""
    with scenario.Scene(check, "storage_of_backup") as scene:
        standby = scene.standby
        scene.mark(f"every path of {standby.name} to the disks is cut")
        faults.storage_down(standby)
        scene.undo(lambda: faults.storage_up(standby))
        scene.nothing_moves(HOLD_S, GAP_S_MAX)
        said = pair.state(standby)
        check.that(f"{standby.name} can't take over, and says why", not said["eligible"] and said["blockers"], said)
        faults.storage_up(standby)
        scene.back_as_standby(standby)
