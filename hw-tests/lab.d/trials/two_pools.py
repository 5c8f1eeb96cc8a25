"""Two pools with an address and a recorder each; in a takeover one of them can't be imported.

Expected: the other pool's address answers with every record; the lost pool's is off, and an alarm names it; once its disks
are back it is imported and served again without anybody's help, and a handover takes both.
"""

import faults
import install
import pair
import scenario
import state
from check import Check

LOST = "dozer"
# The pause before a pool is tried again doubles with each try.
TRIED_AGAIN_S_MAX = 200.0


def run(check: Check) -> None:
    with scenario.Scene(check, "two_pools") as scene:
        dead, heir = scene.master, scene.standby
        on = install.disks_of(LOST, install.layout(), state.load().disks)
        broken = on[: len(on) - 1]
        scene.mark(f"{dead.name} loses its power while disks {broken} of {LOST} fail")
        faults.power_off(dead)
        for disk in broken:
            faults.disk_fail(disk)
            scene.undo(lambda disk=disk: faults.disk_heal(disk))
        scene.without.add(LOST)
        scene.taken_over(heir, 240.0)
        scene.alarm(heir, "IMPORT_FAILED")
        check.that(f"{LOST} is not here", not pair.has_pool(heir, LOST))
        check.that(f"the address of {LOST} is off", not pair.has_address(heir, install.address_of(LOST)))
        check.that("the address of tank is on", pair.has_address(heir, install.address_of("tank")))
        for disk in broken:
            faults.disk_heal(disk)
        scene.power_on(dead)
        scene.without.discard(LOST)
        # A handover is refused while the lost pool is tried again.
        scene.steady("with all disks", TRIED_AGAIN_S_MAX)
        scene.hand_over("handover with all disks")
        check.that(f"both pools are on {dead.name}", all(pair.has_pool(dead, pool) for pool in scene.pools))
