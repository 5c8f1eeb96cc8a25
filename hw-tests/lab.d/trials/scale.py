"""Pools of 24 and of 64 disks, groups of eight: one handover there and back, and one power cut."""

import faults
import pair
import remote
import scenario
from check import Check

HANDOVER_S_MAX = 180.0
TAKEOVER_S_MAX = 300.0


def _scale(check: Check, name: str) -> None:
    with scenario.Scene(check, name) as scene:
        for turn in ("there", "back"):
            old, heir = scene.master, scene.standby
            scene.mark(f"handover {turn}: {old.name} is asked to become passive")
            remote.must(old, f"midctl --timeout {HANDOVER_S_MAX:.0f} call failover.become_passive", HANDOVER_S_MAX)
            scene.taken_over(heir, HANDOVER_S_MAX)
            pair.wait_for(old, "BACKUP", HANDOVER_S_MAX)
        dead, heir = scene.master, scene.standby
        scene.mark(f"{dead.name} loses its power")
        faults.power_off(dead)
        scene.taken_over(heir, TAKEOVER_S_MAX)
        scene.power_on(dead)
        check.figures.append(scene.gap_figure())


def disks24(check: Check) -> None:
    """24 disks. Expected: as with eight."""
    _scale(check, "scale_disks24")


def disks64(check: Check) -> None:
    """64 disks. Expected: as with eight."""
    _scale(check, "scale_disks64")
