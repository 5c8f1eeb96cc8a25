"""The daemon of the MASTER is killed (kill -9) and started again by systemd at once.

Expected: either it adopts what it left (no takeover), or the other one takes over and the old one resets itself; never
anything between, and no record is lost.
"""

import pair
import remote
import scenario
from check import Check


def run(check: Check) -> None:
    with scenario.Scene(check, "daemon") as scene:
        old = scene.master
        scene.mark(f"the daemon of {old.name} is killed")
        remote.must(old, "systemctl kill --kill-whom=main --signal=SIGKILL failoverd")
        scene.wait_for_pair(scenario.BOOT_S_MAX)
        scene.steady("after the kill")
        adopted = scene.master.name == old.name
        reset = pair.boot_id(old) != scene.boots[old.name]
        check.that("it was adopted without a reset, or taken over with one", adopted != reset, (scene.master.name, reset))
        check.figures.append("adopted" if adopted else "taken over")
        check.figures.append(scene.gap_figure())
