"""The MASTER's machine is stopped together with its clocks and resumed when the other one serves: it cannot know that time
has passed, so its lease is still good by its own clock.

Expected: its disks take nothing (the oracle); it answers for the virtual address, whoever still asks it, for no longer than
`vip_lease_ms` after it goes on; then it resets itself and is BACKUP. The time is measured.
"""

import subprocess
import sys
import time

import faults
import install
import network
import remote
import scenario
import topology
from check import Check

STILL_S = 5.0
WATCH_S = 15.0
# A busy computer's own delay between the machine's lapse and our look.
SLACK_S = 0.5


def run(check: Check) -> None:
    lease_s = install.timing()["vip_lease_ms"] / 1000
    with scenario.Scene(check, "pause") as scene:
        old, heir = scene.master, scene.standby
        before = _ask(old, 2.0)
        check.that(f"{old.name} answers for the address while it is MASTER", bool(before), before)
        scene.mark(f"{old.name} is stopped, its clocks too")
        remote.disconnect(old)
        faults.pause(old)
        scene.undo(lambda: faults.resume(old) if faults.power(old) == "paused" else None)
        scene.taken_over(heir)
        time.sleep(STILL_S)
        watch = _start(old, WATCH_S)
        time.sleep(0.5)
        scene.note(f"{old.name} goes on")
        resumed_s = time.time()
        faults.resume(old)
        answers = [at for at in _end(watch, WATCH_S) if at >= resumed_s]
        window_s = max(answers, default=resumed_s) - resumed_s
        check.that(f"{old.name} answers for at most vip_lease_ms ({lease_s:.1f} s) after it went on",
                   window_s <= lease_s + SLACK_S, f"{window_s:.3f} s, {len(answers)} answers")
        check.figures.append(f"stale for {window_s * 1000:.0f} ms, {len(answers)} answers, of {lease_s * 1000:.0f} allowed")
        scene.note(f"{old.name} answered {len(answers)} times, the last {window_s * 1000:.0f} ms after it went on")
        scene.resets_itself(old)
        scene.back_as_standby(old)
        scene.alarm(old, "RESET_BEFORE")
        scene.steady("after it came back")
        check.figures.append(scene.gap_figure())


def _start(machine: topology.Machine, seconds: float) -> subprocess.Popen:
    command = [sys.executable, str(topology.HERE / "stale.py"), "lan0", machine.mac("lan")]
    command += [install.VIRTUAL_ADDRESS, str(seconds)]
    return subprocess.Popen(network.client(command), stdout=subprocess.PIPE, text=True)


def _end(watch: subprocess.Popen, seconds: float) -> list[float]:
    try:
        out, _ = watch.communicate(timeout=seconds + 10)
    finally:
        watch.kill()
    return [float(line) for line in out.split()]


def _ask(machine: topology.Machine, seconds: float) -> list[float]:
    return _end(_start(machine, seconds), seconds)
