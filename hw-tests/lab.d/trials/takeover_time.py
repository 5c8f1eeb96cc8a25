"""How long a takeover's phases take beside the bare `zpool import` of the same pool on the same machine: five rounds, each
with a handover there and back, a power cut that the pair takes over, and a power cut after which a person would import.

Expected, medians: fence at most 400 ms, import at most 1.2 times the bare one, the address on at most 100 ms after the last
service; of a handover the export at most 1.2 times the bare `zpool export`, its import as above. Every time is taken inside
the machine that does the work.
"""

from statistics import median

import faults
import install
import oracle
import pair
import recover
import remote
import report
import scenario
from check import Check, Skip
from topology import Machine

ROUNDS = 5
RATIO_MAX = 1.2
FENCE_MS_MAX = 400.0
VIP_MS_MAX = 100.0
IMPORT_S_MAX = 180.0
# A pool that a MASTER exports was just written to, record by record: so is the one that a person exports here.
STRAY = f"{install.mountpoint('tank')}/stray"
WRITES = f"dd if=/dev/urandom of={STRAY} bs=4k count=300 oflag=dsync status=none && rm {STRAY}"


def run(check: Check) -> None:
    if install.layout().fs != "zfs":
        raise Skip("needs ZFS")
    times: dict[str, list[float]] = {}
    for number in range(1, ROUNDS + 1):
        with scenario.Scene(check, f"takeover_time_{number}") as scene:
            _round(scene, times)
        if check.failed:
            return
        _bare(times)
    _judge(check, times)


def _round(scene: scenario.Scene, times: dict[str, list[float]]) -> None:
    """`dead` is MASTER first; it hands over and gets back, then loses its power. All is measured on `heir`."""
    dead, heir = scene.master, scene.standby
    scene.hand_over("handover there")
    scene.hand_over("handover back")
    _keep(times, "planned", _phases(heir, lambda record: record["status"] == "MASTER"))
    _keep(times, "planned", _phases(heir, lambda record: any(p["phase"] == "export" for p in record["phases"])))
    scene.mark(f"{dead.name} loses its power")
    faults.power_off(dead)
    scene.taken_over(heir)
    _keep(times, "power cut", _phases(heir, lambda record: record["status"] == "MASTER"))
    scene.power_on(dead)
    scene.hand_over("handover to the one that was dead")


def _bare(times: dict[str, list[float]]) -> None:
    """The same without the product: its daemon is stopped on the heir, the MASTER loses its power under load, its
    reservations are cleared by hand."""
    dead = recover.healthy_pair()
    heir = pair.other(dead)
    client = oracle.Client("bare")
    client.wait_until_steady(60.0)
    remote.must(heir, "systemctl stop failoverd", 180.0)
    faults.power_off(dead)
    client.kill()
    install.free_from(heir)
    for name, command in (("unexported import", "zpool import -f -o cachefile=none tank"), (None, WRITES),
                          ("export", "zpool export tank"), ("exported import", "zpool import -o cachefile=none tank"),
                          (None, "zpool export tank")):
        took_ms = _time(heir, command)
        if name:
            times.setdefault(f"bare {name}", []).append(took_ms)
    remote.must(heir, "systemctl start failoverd", 60.0)
    faults.power_on(dead)
    # The one that was up took over; the next round begins with the other one as before.
    if pair.wait_for_master(scenario.BOOT_S_MAX).name == heir.name:
        scenario.ask_to_hand_over(heir, scenario.HANDOVER_S_MAX)
        pair.wait_for(dead, "MASTER", scenario.HANDOVER_S_MAX)


def _time(machine: Machine, command: str) -> float:
    """Milliseconds of a command, by the machine's own clock."""
    words = remote.must(machine, f"date +%s%N; {command} && date +%s%N", IMPORT_S_MAX).split()
    return (int(words[1]) - int(words[0])) / 1e6


def _phases(machine: Machine, wanted) -> dict[str, float]:
    """Milliseconds of the phases of the newest transition that is wanted and has some."""
    found = [record for record in pair.history(machine) if record["phases"] and wanted(record)]
    return report.phases_of(found[-1])


def _keep(times: dict[str, list[float]], kind: str, phases: dict[str, float]) -> None:
    for name, millis in phases.items():
        times.setdefault(f"{kind} {name}", []).append(millis)


def _judge(check: Check, times: dict[str, list[float]]) -> None:
    lines = [f"{'':28} {'p50 ms':>9} {'max ms':>9} {'n':>3}"]
    for kind in ("power cut", "planned", "bare"):
        for name, millis in times.items():
            if name.startswith(kind):
                lines.append(f"{name:28} {median(millis):9.0f} {max(millis):9.0f} {len(millis):3}")
    ratios = {
        "power cut import": median(times["power cut import"]) / median(times["bare unexported import"]),
        "planned import": median(times["planned import"]) / median(times["bare exported import"]),
        "planned export": median(times["planned export"]) / median(times["bare export"]),
    }
    lines += [f"{name} / bare {ratio:>22.2f}" for name, ratio in ratios.items()]
    text = "\n".join(lines)
    print(text)
    (report.folder() / "takeover_time.md").write_text(f"# takeover_time\n\nTimers: {report.profile_line()}\n\n```\n{text}\n```\n")
    for name, ratio in ratios.items():
        check.that(f"{name} is at most {RATIO_MAX} times the bare one", ratio <= RATIO_MAX, f"{ratio:.2f}")
    for kind in ("power cut", "planned"):
        fence, vip = median(times[f"{kind} fence"]), median(times[f"{kind} vip"])
        check.that(f"{kind}: fence at most {FENCE_MS_MAX:.0f} ms", fence <= FENCE_MS_MAX, f"{fence:.0f} ms")
        check.that(f"{kind}: address at most {VIP_MS_MAX:.0f} ms after the services", vip <= VIP_MS_MAX, f"{vip:.0f} ms")
        check.figures.append(f"{kind}: fence {fence:.0f} ms, vip {vip:.0f} ms")
    check.figures.append("import / bare " + ", ".join(f"{ratio:.2f}" for ratio in ratios.values()))
