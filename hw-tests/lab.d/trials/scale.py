"""Pools of 24 and of 64 disks, groups of eight: one handover there and back, and one power cut."""

import faults
import scenario
from check import Check

TAKEOVER_S_MAX = 300.0


def _scale(check: Check, name: str) -> None:
    with scenario.Scene(check, name) as scene:
        for turn in ("there", "back"):
            scene.hand_over(f"handover {turn}")
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
