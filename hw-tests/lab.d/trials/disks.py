"""Disks that fail or don't answer. An erroring disk fails each read and write; the enclosure's reservations still answer,
because they don't touch the medium. A hanging one answers nothing that touches the medium."""

import time

import faults
import install
import pair
import remote
import scenario
import state
from check import Check
from topology import Machine

ERROR_S = 20.0
HANG_S = 60.0
HANG_S_SHORT = 30.0
# The kernel may go on calling the pool ONLINE: then its devices are asked for each minute.
ALARM_S_MAX = 90.0
GAP_S_MAX = 10.0
# raidz2 goes on without two disks.
MINORITY = (6, 7)
MAJORITY = (3, 4, 5, 6, 7)


def _fail(check: Check, name: str, which: tuple[int, ...]) -> None:
    with scenario.Scene(check, name) as scene:
        scene.mark(f"disks {', '.join(map(str, which))} fail every read and write")
        for disk in which:
            faults.disk_fail(disk)
            scene.undo(lambda disk=disk: faults.disk_heal(disk))
        scene.nothing_moves(ERROR_S, GAP_S_MAX)
        if install.layout().fs == "zfs":
            scene.alarm(scene.master, "POOL_DEGRADED", timeout_s=ALARM_S_MAX)
        scene.note("the disks answer again")
        for disk in which:
            faults.disk_heal(disk)
        _clear(scene)
        scene.steady("after the disks came back")


def one(check: Check) -> None:
    """One disk of the pool fails. Expected: no transition; the pool goes on without it."""
    _fail(check, "disks_one", MINORITY[:1])


def minority(check: Check) -> None:
    """Two of eight disks fail, as many as raidz2 can do without. Expected: no transition; the pool goes on."""
    _fail(check, "disks_minority", MINORITY)


def majority(check: Check) -> None:
    """Five of eight disks fail: no controller can have the pool.

    Expected: nothing is acknowledged that isn't kept, an alarm says that the pool is gone, nobody resets itself for ever;
    once the disks are back the pair serves again, at the latest after both were power-cycled.
    """
    with scenario.Scene(check, "disks_majority") as scene:
        scene.mark(f"disks {', '.join(map(str, MAJORITY))} fail every read and write")
        for disk in MAJORITY:
            faults.disk_fail(disk)
            scene.undo(lambda disk=disk: faults.disk_heal(disk))
        time.sleep(ERROR_S)
        for client in scene.clients.values():
            client.look()
        now = time.time()
        rate = scene.clients["tank"].rate(now - 5, now)
        check.that("nothing is acknowledged any more", rate == 0, rate)
        scene.note("the disks answer again")
        for disk in MAJORITY:
            faults.disk_heal(disk)
        scene.serves_again_or_power_cycle()
        scene.steady("after the disks came back")


def hang(check: Check) -> None:
    """One disk answers nothing for a minute.

    Expected: the pair has one MASTER all the time or after one takeover, and no record is lost; the client waits for as
    long as the pool waits for its disk; afterwards both controllers are well.
    """
    with scenario.Scene(check, "disks_hang") as scene:
        scene.mark(f"disk {MINORITY[0]} hangs")
        faults.disk_hang(MINORITY[0])
        scene.undo(lambda: faults.disk_heal(MINORITY[0]))
        time.sleep(HANG_S_SHORT if check.short else HANG_S)
        said = {one.name: pair.public_state(one) for one in (scene.master, scene.standby)}
        check.that("there are not two MASTERs", list(said.values()).count("MASTER") <= 1, said)
        scene.note("the disk answers again")
        faults.disk_heal(MINORITY[0])
        scene.serves_again_or_power_cycle(may_cycle=False)
        scene.steady("after the disk came back")
        check.figures.append(scene.gap_figure())


def not_won(check: Check) -> None:
    """One disk refuses the heir's reservation although the heir sees and reads it, and the heir takes over.

    Expected: the pool comes up without that disk, and ZFS doesn't open it there; once the disk takes reservations again,
    a handover there and back makes the pool whole.
    """
    disk = MINORITY[0]
    with scenario.Scene(check, "disks_not_won") as scene:
        heir = scene.standby
        scene.note(f"disk {disk} refuses reservations of {heir.name}")
        faults.disk_refuse(heir, disk)
        scene.undo(lambda: faults.disk_obey(heir, disk))
        scene.hand_over("handover without a disk")
        check.that("the pool does without the disk", _health(heir) == "DEGRADED", _health(heir))
        scene.steady("without the disk")
        open_disks = remote.must(heir, "zpool status -L tank | grep -c 'sd.* ONLINE'").strip()
        check.that("ZFS has opened all disks but that one", open_disks == str(state.load().disks - 1), open_disks)
        scene.alarm(heir, "FENCE_INCOMPLETE")
        scene.note("the disk takes reservations again")
        faults.disk_obey(heir, disk)
        scene.hand_over("handover away")
        scene.hand_over("handover back")
        _clear(scene)
        check.that("the pool is whole again", _health(heir) == "ONLINE", _health(heir))
        scene.steady("with every disk")


def _health(machine: Machine) -> str:
    return remote.run(machine, "zpool list -H -o health tank").out.strip()


def _clear(scene: scenario.Scene) -> None:
    """Tells ZFS that the disks are well, so that it writes what they missed."""
    if install.layout().fs == "zfs":
        for pool in scene.pools:
            remote.must(scene.master, f"zpool clear {pool}; zpool wait -t resilver {pool}", 120.0)
