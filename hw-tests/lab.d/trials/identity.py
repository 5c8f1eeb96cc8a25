"""The BACKUP comes up as somebody else: with the MASTER's place in the pair, or with another pair's key."""

import install
import pair
import remote
import scenario
from check import Check
from topology import CONTROLLERS

HOLD_S = 30.0
GAP_S_MAX = 4.0
RESTART_S_MAX = 120.0


def cloned(check: Check) -> None:
    """Both controllers are configured as the MASTER's node. Expected: the MASTER serves on without a transition; the
    clone never serves."""
    with scenario.Scene(check, "identity_cloned") as scene:
        clone = scene.standby
        scene.mark(f"{clone.name} starts as node {scene.master.name.upper()}")
        _restart_as(scene, clone, lambda: install.write_configuration(clone, node=scene.master.name.upper()))
        _never_serves(check, scene, clone)
        _restore(scene, clone)


def other_key(check: Check) -> None:
    """The BACKUP has the key of another pair. Expected: the MASTER serves on without a transition; the stranger sees
    foreign keys on the disks and never serves."""
    with scenario.Scene(check, "identity_other_key") as scene:
        stranger = scene.standby
        scene.mark(f"{stranger.name} starts with another pair's key")
        key = "cp /etc/failoverd/pair.key /root/pair.key && rm /etc/failoverd/pair.key && failoverd new-key /etc/failoverd/pair.key"
        _restart_as(scene, stranger, lambda: remote.must(stranger, key))
        _never_serves(check, scene, stranger)
        _restore(scene, stranger)


def _restart_as(scene: scenario.Scene, machine, change) -> None:
    remote.must(machine, "systemctl stop failoverd", RESTART_S_MAX)
    scene.undo(lambda: _restore(scene, machine))
    change()
    # A refusal to start is as good as an error state.
    remote.run(machine, "systemctl start failoverd", RESTART_S_MAX)


def _never_serves(check: Check, scene: scenario.Scene, machine) -> None:
    scene.nothing_moves(HOLD_S, GAP_S_MAX, of=(scene.master,))
    said = pair.public_state(machine)
    check.that(f"{machine.name} does not serve", said != "MASTER", said)
    check.that(f"{machine.name} has no pool", not any(pair.has_pool(machine, pool) for pool in scene.pools))
    check.that(f"{machine.name} may not write", not pair.disk_takes_write(machine, 0))
    print(f"  {machine.name} says {pair.short(pair.state(machine))}")


def _restore(scene: scenario.Scene, machine) -> None:
    other = next(one for one in CONTROLLERS if one.name != machine.name)
    remote.run(machine, "systemctl stop failoverd; rm -f /root/pair.key", RESTART_S_MAX)
    install.give_key(machine, remote.must(other, "base64 -w0 /etc/failoverd/pair.key"))
    install.write_configuration(machine)
    remote.must(machine, "systemctl reset-failed failoverd; systemctl start failoverd", RESTART_S_MAX)
