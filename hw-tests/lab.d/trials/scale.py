"""Pools of 24 and of 64 disks, groups of eight: one handover there and back, and one power cut; with the figures of the
fencing engine on that many real LUNs."""

import time

import faults
import pair
import remote
import report
import scenario
from check import Check
from topology import Machine

TAKEOVER_S_MAX = 300.0
STEADY_S = 20.0
TICKS_A_SECOND = 100


def _scale(check: Check, name: str) -> None:
    with scenario.Scene(check, name) as scene:
        for turn in ("there", "back"):
            scene.hand_over(f"handover {turn}")
        dead, heir = scene.master, scene.standby
        scene.mark(f"{dead.name} loses its power")
        faults.power_off(dead)
        scene.taken_over(heir, TAKEOVER_S_MAX)
        took = [record for record in pair.history(heir) if record["status"] == "MASTER" and record["phases"]]
        check.figures.append(f"every disk taken in {report.phases_of(took[-1])['fence']:.0f} ms")
        scene.power_on(dead)
        check.figures.append(f"MASTER, BACKUP looking at every disk: {_share(heir):.1f}, {_share(dead):.1f} % of a processor")
        check.figures.append(scene.gap_figure())


def _share(machine: Machine) -> float:
    """What the daemon takes of the emulated processor while nothing happens, in percent; whatever else it does is in it."""
    ask = "cut -d' ' -f14,15 /proc/$(systemctl show -P MainPID failoverd)/stat; cut -d' ' -f1 /proc/uptime"
    looks = []
    for pause_s in (STEADY_S, 0.0):
        user, system, uptime = remote.must(machine, ask).split()
        looks.append(((int(user) + int(system)) / TICKS_A_SECOND, float(uptime)))
        time.sleep(pause_s)
    (used, began), (used_then, ended) = looks
    return 100 * (used_then - used) / (ended - began)


def disks24(check: Check) -> None:
    """24 disks. Expected: as with eight."""
    _scale(check, "scale_disks24")


def disks64(check: Check) -> None:
    """64 disks. Expected: as with eight."""
    _scale(check, "scale_disks64")
