"""Cables of the network, one at a time and all heartbeat links together: a broken cable is never the death of the other
one."""

import faults
import pair
import scenario
from check import Check
from topology import Machine

HOLD_S = 15.0
# What a client may miss while nothing moves: the emulation stands still at times.
GAP_S_MAX = 4.0
HEARTBEATS = ("hb0", "hb1")


def _heartbeat(check: Check, link: str) -> None:
    with scenario.Scene(check, f"links_{link}") as scene:
        scene.mark(f"{link} of {scene.master.name} has no carrier")
        _down(scene, scene.master, link)
        scene.nothing_moves(HOLD_S, GAP_S_MAX)
        number = HEARTBEATS.index(link)
        for one in (scene.master, scene.standby):
            age = pair.state(one)["links"][number]["age_ms"]
            check.that(f"{one.name} knows that link {number} is silent", age is None or age > HOLD_S * 500, age)
            scene.alarm(one, "LINK_SILENT")
        scene.mark(f"{link} is whole again")
        faults.link_up(scene.master, link)
        scene.nothing_moves(5.0, GAP_S_MAX)


def hb0(check: Check) -> None:
    """The first heartbeat link breaks. Expected: no transition, the client misses nothing, both show the link as silent."""
    _heartbeat(check, "hb0")


def hb1(check: Check) -> None:
    """The second heartbeat link breaks. Expected: as with the first."""
    _heartbeat(check, "hb1")


def heartbeats(check: Check) -> None:
    """All heartbeat links are cut at once, carriers stay. Expected: the owner's keys move on the disks, so nobody takes
    over; no transition, the client misses nothing."""
    with scenario.Scene(check, "links_heartbeats") as scene:
        scene.mark("all heartbeat links are cut")
        for link in HEARTBEATS:
            faults.link_cut(scene.master, link)
            scene.undo(lambda link=link: faults.link_up(scene.master, link))
        scene.nothing_moves(HOLD_S, GAP_S_MAX)
        scene.mark("all heartbeat links are whole again")
        for link in HEARTBEATS:
            faults.link_up(scene.master, link)
        scene.nothing_moves(5.0, GAP_S_MAX)


def lan_of_master(check: Check) -> None:
    """The MASTER's only link to its clients loses its carrier. Expected: it hands over to the one that has its own; nobody
    resets itself."""
    with scenario.Scene(check, "links_lan_of_master") as scene:
        old, heir = scene.master, scene.standby
        scene.mark(f"lan of {old.name} has no carrier")
        _down(scene, old, "lan")
        scene.taken_over(heir)
        pair.wait_for(old, "BACKUP", 120.0)
        check.that(f"{old.name} has not reset itself", pair.boot_id(old) == scene.boots[old.name])
        faults.link_up(old, "lan")
        scene.back_as_standby(old)


def lan_of_backup(check: Check) -> None:
    """The BACKUP's link to the clients loses its carrier. Expected: no transition; it says why it can't take over."""
    with scenario.Scene(check, "links_lan_of_backup") as scene:
        scene.mark(f"lan of {scene.standby.name} has no carrier")
        _down(scene, scene.standby, "lan")
        scene.nothing_moves(HOLD_S, GAP_S_MAX)
        said = pair.state(scene.standby)
        check.that(f"{scene.standby.name} can't take over, and says why", not said["eligible"] and said["blockers"], said)
        faults.link_up(scene.standby, "lan")


def _down(scene: scenario.Scene, machine: Machine, link: str) -> None:
    faults.link_down(machine, link)
    scene.undo(lambda: faults.link_up(machine, link))
