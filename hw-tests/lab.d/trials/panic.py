"""The MASTER's kernel panics and the machine boots by itself a second later.

Expected: the heir is MASTER long before the old one is back, which comes back as BACKUP.
"""

import faults
import scenario
from check import Check


def run(check: Check) -> None:
    with scenario.Scene(check, "panic") as scene:
        dead, heir = scene.master, scene.standby
        scene.mark(f"{dead.name} panics within a second")
        faults.panic(dead)
        scene.taken_over(heir)
        scene.resets_itself(dead)
        scene.back_as_standby(dead)
        scene.steady("after it came back")
        check.figures.append(scene.gap_figure())
