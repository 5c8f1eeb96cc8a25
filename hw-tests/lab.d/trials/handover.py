"""A planned handover there and back: the pool, the address and the right to write move together, and no record is lost.

Needs the daemons on both controllers: `lab install`.
"""

import time

import pair
import remote
import state
from check import Check
from topology import Machine

FIRST_MASTER_S_MAX = 90.0
HANDOVER_S_MAX = 60.0


def run(check: Check) -> None:
    master = pair.wait_for_master(FIRST_MASTER_S_MAX)
    written = pair.records(master)
    for turn in ("there", "back"):
        standby = pair.other(master)
        written.append(turn)
        pair.write_record(master, turn)
        _serves(check, master, f"before the handover {turn}, {master.name}")

        began = time.monotonic()
        remote.must(master, "midctl call failover.become_passive", HANDOVER_S_MAX)
        pair.wait_for(standby, "MASTER", HANDOVER_S_MAX)
        print(f"  the handover {turn} took {time.monotonic() - began:.1f} s")
        pair.wait_for(master, "BACKUP", HANDOVER_S_MAX)
        seen = pair.records(standby)
        check.that(f"{standby.name} has every record that {master.name} wrote", seen == written, seen)
        master = standby
    _serves(check, master, f"at the end {master.name}")


def _serves(check: Check, master: Machine, label: str) -> None:
    standby = pair.other(master)
    last = state.load().disks - 1
    check.that(f"{label} has the pool, alone", pair.has_pool(master) and not pair.has_pool(standby))
    check.that(f"{label} has the address, alone", pair.has_address(master) and not pair.has_address(standby))
    check.that(f"{label} answers at the virtual address", pair.address_answers())
    check.that(f"{label} may write a shared disk", pair.disk_takes_write(master, last))
    check.that(f"{standby.name} may not", not pair.disk_takes_write(standby, last))
