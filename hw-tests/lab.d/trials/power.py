"""Power of the BACKUP, and of both controllers together."""

import faults
import pair
import scenario
from check import Check
from topology import CONTROLLERS

TIMES = 5
HOLD_S = 20.0
GAP_S_MAX = 4.0
UP_S_MAX = 400.0


def cold_start(check: Check) -> None:
    """Both controllers lose their power together and get it back together, five times.

    Expected: one is MASTER and the other BACKUP each time, with every record.
    """
    with scenario.Scene(check, "power_cold_start") as scene:
        for turn in range(1, TIMES + 1):
            scene.mark(f"cold start {turn}: both controllers are off")
            for one in CONTROLLERS:
                faults.power_off(one)
            for one in CONTROLLERS:
                faults.power_on(one)
            scene.wait_for_pair(UP_S_MAX)
            scene.steady(f"after cold start {turn}")
        check.figures.append(scene.gap_figure())


def backup(check: Check) -> None:
    """The BACKUP loses its power and gets it back. Expected: the MASTER serves on without a transition, and then has a
    BACKUP again."""
    with scenario.Scene(check, "power_backup") as scene:
        standby = scene.standby
        scene.mark(f"{standby.name} is off")
        faults.power_off(standby)
        scene.undo(lambda: faults.power_on(standby) if faults.power(standby) == "off" else None)
        scene.nothing_moves(HOLD_S, GAP_S_MAX, of=(scene.master,))
        said = pair.state(scene.master)
        check.that("the MASTER says that there is nobody to take over", bool(said["disabled_reasons"]), said["disabled_reasons"])
        scene.mark(f"{standby.name} gets power")
        scene.power_on(standby)
        scene.steady("with a BACKUP again")
        check.that("the MASTER has not moved", pair.public_state(scene.master) == "MASTER")
