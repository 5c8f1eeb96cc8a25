"""The MASTER loses its power: the other one takes over with every record, and the first stands by when it is back.

Needs the daemons on both controllers: `lab install`.
"""

import time

import faults
import pair
import remote
import session
import state
from check import Check

FIRST_MASTER_S_MAX = 90.0
TAKEOVER_S_MAX = 60.0
BOOT_S_MAX = 120.0


def run(check: Check) -> None:
    dead = pair.wait_for_master(FIRST_MASTER_S_MAX)
    heir = pair.other(dead)
    before = [*pair.records(dead), "power"]
    pair.write_record(dead, "power")

    began = time.monotonic()
    faults.power_off(dead)
    pair.wait_for(heir, "MASTER", TAKEOVER_S_MAX)
    print(f"  the takeover took {time.monotonic() - began:.1f} s")
    check.that(f"{heir.name} has every record that {dead.name} had synced", pair.records(heir) == before, pair.records(heir))
    check.that(f"{heir.name} answers at the virtual address", pair.address_answers())
    pair.write_record(heir, "heir")

    faults.power_on(dead)
    remote.wait_until_up(dead, BOOT_S_MAX)
    session.wait_for_disks(dead, state.load().disks)
    pair.wait_for(dead, "BACKUP", BOOT_S_MAX)
    check.that(f"{dead.name} is back and has no pool", not pair.has_pool(dead))
    check.that(f"{dead.name} may not write", not pair.disk_takes_write(dead, state.load().disks - 1))
    check.that(f"{heir.name} serves on", pair.public_state(heir) == "MASTER" and pair.records(heir) == [*before, "heir"])
