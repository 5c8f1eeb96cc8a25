"""A pool with multihost=on: ZFS itself looks whether another host writes, which takes half a minute of real time after a
power cut.

Expected: a handover as always; after a power cut the takeover waits for ZFS and then serves; the setting stays as it is.
"""

import faults
import pair
import remote
import scenario
from check import Check

TAKEOVER_S_MAX = 300.0
HANDOVER_S_MAX = 180.0


def run(check: Check) -> None:
    with scenario.Scene(check, "multihost") as scene:
        old, heir = scene.master, scene.standby
        scene.mark(f"{old.name} is asked to become passive")
        remote.must(old, f"midctl --timeout {HANDOVER_S_MAX:.0f} call failover.become_passive", HANDOVER_S_MAX)
        scene.taken_over(heir, HANDOVER_S_MAX)
        pair.wait_for(old, "BACKUP", HANDOVER_S_MAX)
        dead, heir = scene.master, scene.standby
        scene.mark(f"{dead.name} loses its power")
        faults.power_off(dead)
        scene.taken_over(heir, TAKEOVER_S_MAX)
        scene.power_on(dead)
        said = remote.must(scene.master, "zpool get -H -o value multihost tank").strip()
        check.that("multihost is still on", said == "on", said)
        check.figures.append(scene.gap_figure())
