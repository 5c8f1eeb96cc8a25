"""The daemon of the MASTER is restarted by systemd, as an upgrade does it, and then its machine is rebooted.

Expected: `systemctl restart` is no transition: the address and its lease are never absent as the machine's own kernel shows
them, and the longest time without an acknowledgement is that of a quiet minute and 50 ms at most. `systemctl reboot` is a
planned handover: the other one is asked, nobody is fenced, and the machine comes back as BACKUP.
"""

import time

import kernel_view
import pair
import remote
import scenario
from check import Check
from topology import CONTROLLERS, Machine

QUIET_S = 60.0
TIMES = 3
MORE_THAN_QUIET_S_MAX = 0.05
SETTLE_S = 5.0
RESTART_S_MAX = 120.0
# The steps of a daemon that announces its restart and adopts what it left.
OF_A_RESTART = {"restarting", "adopting", "importing", "starting-services", "announcing", "active"}
REBOOT_S_MAX = 300.0


def run(check: Check) -> None:
    with scenario.Scene(check, "restart") as scene:
        quiet_s = quiet(scene)
        for turn in range(1, TIMES + 1):
            unmoved(check, scene, f"restart {turn} of the daemon of {scene.master.name}", quiet_s,
                    lambda: remote.must(scene.master, "systemctl restart failoverd", RESTART_S_MAX))
        check.figures.append(scene.gap_figure())
        _reboot(check, scene)


def quiet(scene: scenario.Scene) -> float:
    """The client's longest gap of a minute in which nothing happens; the kernel is asked as often as later."""
    with kernel_view.KernelView(scene.master):
        began = scene.mark("a quiet minute")
        time.sleep(QUIET_S)
    scene.steady("in the quiet minute")
    gap = max(client.gap(began, time.time()).length_s for client in scene.clients.values())
    print(f"  the longest gap of a quiet minute is {gap * 1000:.0f} ms")
    return gap


def unmoved(check: Check, scene: scenario.Scene, label: str, quiet_s: float, act) -> None:
    """`act` restarts the daemon of the MASTER, and nobody notices."""
    master = scene.master
    before = {one.name: _last(one) for one in CONTROLLERS}
    epoch = pair.state(master).get("epoch")
    pid = _daemon(master)
    with kernel_view.KernelView(master) as view:
        began = scene.mark(label)
        act()
        time.sleep(SETTLE_S)
        ended = time.time()
    scene.steady("after the restart")
    seen = view.seen
    check.that(f"{label}: it is another process", _daemon(master) != pid, pid)
    check.that(f"{label}: the kernel was asked often", seen["samples"] >= kernel_view.SAMPLES_A_SECOND_MIN * (ended - began), seen)
    check.that(f"{label}: the address and its lease were never absent", seen["absent"] == {"address": 0, "lease": 0}, seen)
    for one in CONTROLLERS:
        records = [record for record in pair.history(one) if record["seq"] > before[one.name]]
        usual = OF_A_RESTART if one.name == master.name else set()
        moved = [f"{record['from']} -> {record['to']}: {record['why']}" for record in records if record["to"] not in usual]
        check.that(f"{label}: {one.name} goes through no transition", not moved, moved)
    now = pair.state(master)
    check.that(f"{label}: it is MASTER in the same epoch", (now.get("status"), now.get("epoch")) == ("MASTER", epoch), pair.short(now))
    gap = max(client.gap(began, ended).length_s for client in scene.clients.values())
    print(f"  gap {gap * 1000:.0f} ms, {seen['samples']} looks, at most {seen.get('longest_ms', 0):.0f} ms apart")
    check.that(f"{label}: the longest gap is that of a quiet minute + 50 ms at most", gap <= quiet_s + MORE_THAN_QUIET_S_MAX,
               f"{gap * 1000:.0f} ms, quiet {quiet_s * 1000:.0f} ms")


def _reboot(check: Check, scene: scenario.Scene) -> None:
    old, heir = scene.master, scene.standby
    before = {one.name: _last(one) for one in (old, heir)}
    scene.mark(f"{old.name} is rebooted")
    remote.run(old, "systemctl --no-block reboot")
    scene.taken_over(heir, REBOOT_S_MAX)
    told = [record["why"] for record in pair.history(heir) if record["seq"] > before[heir.name]]
    check.that(f"{heir.name} took over a handover, not a death", not any("dead" in why for why in told), told)
    took = pair.wait_for_boot(old, scene.boots[old.name], REBOOT_S_MAX)
    print(f"  {old.name} is in another boot after {took:.1f} s")
    scene.boots[old.name] = pair.boot_id(old)
    scene.back_as_standby(old)
    said = [record["why"] for record in pair.history(old) if record["seq"] > before[old.name]]
    said = [why for why in said if "reset itself" in why]
    check.that(f"{old.name} did not reset itself", not said, said)


def _last(machine: Machine) -> int:
    return max((record["seq"] for record in pair.history(machine)), default=0)


def _daemon(machine: Machine) -> str:
    return remote.must(machine, "systemctl show -P MainPID failoverd").strip()
