"""Planned handovers there and back, ten in all: pools, addresses and the right to write move together, the client is dark
for a bounded time, and no record is lost.

Expected: each time the other controller is MASTER and the old one BACKUP; nobody resets itself; no alarm.
"""

import pair
import scenario
from check import Check

TIMES = 10
TIMES_SHORT = 2


def run(check: Check) -> None:
    times = TIMES_SHORT if check.short else TIMES
    with scenario.Scene(check, "handover") as scene:
        for turn in range(1, times + 1):
            scene.hand_over(f"handover {turn}")
            _serves_alone(check, scene)
        check.figures.append(scene.gap_figure())


def _serves_alone(check: Check, scene: scenario.Scene) -> None:
    master, standby = scene.master, scene.standby
    check.that(f"{master.name} has the pool, alone", pair.has_pool(master) and not pair.has_pool(standby))
    check.that(f"{master.name} has the address, alone", pair.has_address(master) and not pair.has_address(standby))
    check.that(f"{standby.name} may not write", not pair.disk_takes_write(standby, 0))
