"""Planned handovers there and back, ten in all: pools, addresses and the right to write move together, the client is dark
for a bounded time, and no record is lost.

Expected: each time the other controller is MASTER and the old one BACKUP; nobody resets itself; no alarm.
"""

import pair
import remote
import scenario
from check import Check
from topology import CONTROLLERS

TIMES = 10
TIMES_SHORT = 2
HANDOVER_S_MAX = 90.0


def run(check: Check) -> None:
    times = TIMES_SHORT if check.short else TIMES
    with scenario.Scene(check, "handover") as scene:
        for turn in range(1, times + 1):
            old, heir = scene.master, scene.standby
            scene.mark(f"handover {turn}: {old.name} is asked to become passive")
            remote.must(old, "midctl --timeout 90 call failover.become_passive", HANDOVER_S_MAX)
            scene.taken_over(heir, HANDOVER_S_MAX)
            pair.wait_for(old, "BACKUP", HANDOVER_S_MAX)
            _serves_alone(check, scene)
        for one in CONTROLLERS:
            check.that(f"{one.name} has not reset itself", pair.boot_id(one) == scene.boots[one.name])
        check.figures.append(scene.gap_figure())


def _serves_alone(check: Check, scene: scenario.Scene) -> None:
    master, standby = scene.master, scene.standby
    check.that(f"{master.name} has the pool, alone", pair.has_pool(master) and not pair.has_pool(standby))
    check.that(f"{master.name} has the address, alone", pair.has_address(master) and not pair.has_address(standby))
    check.that(f"{standby.name} may not write", not pair.disk_takes_write(standby, 0))
