"""A pool with multihost=on: ZFS itself looks whether another host writes, which takes half a minute of real time after a
power cut.

Expected: a handover as always; after a power cut the takeover waits for ZFS and then serves; the setting stays as it is.
"""

import faults
import remote
import scenario
from check import Check

TAKEOVER_S_MAX = 300.0


def run(check: Check) -> None:
    with scenario.Scene(check, "multihost") as scene:
        scene.hand_over()
        dead, heir = scene.master, scene.standby
        scene.mark(f"{dead.name} loses its power")
        faults.power_off(dead)
        scene.taken_over(heir, TAKEOVER_S_MAX)
        scene.power_on(dead)
        said = remote.must(scene.master, "zpool get -H -o value multihost tank").strip()
        check.that("multihost is still on", said == "on", said)
        check.figures.append(scene.gap_figure())
