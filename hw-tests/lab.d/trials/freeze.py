"""The MASTER freezes and wakes up late: meanwhile the other one has taken over, and nothing that it still does counts.

Needs the daemons on both controllers: `lab install`.
"""

import time

import faults
import pair
import remote
import session
import state
from check import Check
from topology import LabError, Machine

FIRST_MASTER_S_MAX = 90.0
TAKEOVER_S_MAX = 60.0
BOOT_S_MAX = 180.0


def run(check: Check) -> None:
    frozen = pair.wait_for_master(FIRST_MASTER_S_MAX)
    heir = pair.other(frozen)
    before = [*pair.records(frozen), "freeze"]
    pair.write_record(frozen, "freeze")
    boot = _boot_id(frozen)

    began = time.monotonic()
    faults.freeze(frozen)
    pair.wait_for(heir, "MASTER", TAKEOVER_S_MAX)
    print(f"  the takeover took {time.monotonic() - began:.1f} s")
    check.that(f"{heir.name} has every record that {frozen.name} had synced", pair.records(heir) == before, pair.records(heir))
    pair.write_record(heir, "heir")

    remote.disconnect(frozen)
    faults.thaw(frozen)
    # It finds its disks taken, resets itself and comes back as the one that stands by.
    began = time.monotonic()
    while _state_after_reset(frozen, boot) != "BACKUP":
        if time.monotonic() - began > BOOT_S_MAX:
            check.that(f"{frozen.name} resets itself and stands by", False, _state_after_reset(frozen, boot))
            return
        time.sleep(0.5)
    print(f"  {frozen.name} stands by {time.monotonic() - began:.1f} s after it woke up")
    check.that(f"{frozen.name} has reset itself", _boot_id(frozen) != boot)
    check.that(f"{frozen.name} has no pool", not pair.has_pool(frozen))
    session.wait_for_disks(frozen, state.load().disks)
    check.that(f"{frozen.name} may not write", not pair.disk_takes_write(frozen, state.load().disks - 1))
    check.that(f"{heir.name} serves on", pair.public_state(heir) == "MASTER" and pair.records(heir) == [*before, "heir"])
    check.that(f"{heir.name} answers at the virtual address", pair.address_answers())


def _boot_id(machine: Machine) -> str:
    return remote.must(machine, "cat /proc/sys/kernel/random/boot_id").strip()


def _state_after_reset(machine: Machine, boot: str) -> str:
    """The public state in a later boot than `boot`; what stands in the way otherwise."""
    try:
        return "same boot" if _boot_id(machine) == boot else pair.public_state(machine)
    except LabError as error:
        return str(error)
