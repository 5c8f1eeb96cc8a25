"""The MASTER loses its power, five times: the other one takes over with every record, and the first stands by when it is
back.

Expected: the heir is MASTER; the one that comes back is BACKUP, has no pool and may not write.
"""

import faults
import scenario
from check import Check

TIMES = 5


def run(check: Check) -> None:
    times = 1 if check.short else TIMES
    with scenario.Scene(check, "power_cut") as scene:
        for turn in range(1, times + 1):
            dead, heir = scene.master, scene.standby
            scene.mark(f"power cut {turn}: {dead.name} is off")
            faults.power_off(dead)
            scene.taken_over(heir)
            scene.power_on(dead)
        check.figures.append(scene.gap_figure())
