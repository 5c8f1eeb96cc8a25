"""What a scenario leaves: a page with the timeline of both controllers and the client, phases, verdict and times."""

import time
from pathlib import Path

import events
import install
import pair
import remote
import topology
from topology import CONTROLLERS

# Gaps shorter than this are the emulation's own.
GAP_S_MIN = 1.0
# Of what QEMU says by itself.
HARDWARE = {"RESET": "resets", "WATCHDOG": "its watchdog bites", "GUEST_PANICKED": "its kernel panics", "SHUTDOWN": "ends"}
PHASES = ("detect", "decide", "fence", "import", "services", "vip")


def folder() -> Path:
    """Outside the running lab's folder: `lab up` empties that."""
    path = topology.cache() / f"reports-{topology.NAME}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def write(scene) -> Path:
    """Writes the scene's page and prints its path."""
    lines = timeline(scene)
    transitions = takeovers(scene)
    layout = install.layout()
    text = [f"# {scene.name}", "", f"Began {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(scene.began_s))} UTC, "
            f"took {time.time() - scene.began_s:.1f} s.", f"Layout: {layout}.",
            f"Timers: profile {layout.profile}, {profile_line()}.", ""]
    text += ["## Verdict", ""]
    text += [f"- {pool}: {verdict}" for pool, verdict in scene.verdicts.items()] or ["- none"]
    text += [f"- {'ok' if good else 'FAILED'}: {what}{'' if good else f': saw {seen}'}" for what, good, seen in scene.check.lines]
    text += ["", "## What the client saw", ""]
    for event in scene.events:
        gaps = ", ".join(f"{pool} {gap.length_s:.2f} s" for pool, gap in event.gaps.items())
        text += [f"- {event.label}: longest gap {gaps or 'not measured'}"]
    text += ["", "## Phases, ms", "", "| controller | epoch | " + " | ".join(PHASES) + " | sum |", "|---" * (len(PHASES) + 3) + "|"]
    for node, epoch, phases in transitions:
        cells = [f"{phases[name]:.0f}" if name in phases else "·" for name in PHASES]
        text += [f"| {node} | {epoch} | {' | '.join(cells)} | {sum(phases.values()):.0f} |"]
    first = scene.events[0].at_s if scene.events else scene.ready_s
    text += ["", "## Timeline", "", "Seconds from the first fault, by this computer's clock; the controllers' clocks are compared "
             "before and after, to some 20 ms.", "", "```"]
    text += [f"{at - first:9.3f}  {who:6}  {what}" for at, who, what in lines]
    text += ["```", ""]
    path = folder() / f"{scene.name}.md"
    path.write_text("\n".join(text))
    print(f"  report: {path}")
    return path


def profile_line() -> str:
    return ", ".join(f"{name} {value}" for name, value in install.timing().items())


def timeline(scene) -> list[tuple[float, str, str]]:
    """(time, who, what), in the order of time."""
    lines = [(event.at_s, "fault", event.label) for event in scene.events]
    lines += [(at, "note", label) for at, label in scene.notes]
    for one in CONTROLLERS:
        for record in fresh_history(scene, one):
            at = place(scene, one, record["wall_s"])
            lines.append((at, one.name, f"{record['from']} -> {record['to']} ({record['status']}, epoch {record['epoch']}): {record['why']}"))
        clocks = [clock for clock in scene.clocks[one.name] if clock]
        if clocks:
            for message in pair.messages(one, scene.began_s - clocks[0].ahead_s):
                if message["id"] not in ("STATE", "") or message["priority"] <= 3:
                    at = place(scene, one, message["at_s"])
                    lines.append((at, one.name, f"[{message['id'] or 'log'}] {message['text']}"))
        if remote.reach is None:
            hardware = events.read(one, scene.began_s)
            lines += [(event.at_s, one.name, f"(machine) {HARDWARE[event.name]}") for event in hardware if event.name in HARDWARE]
    for pool, client in scene.clients.items():
        lines += [(at, "client", f"{pool}: {what}") for at, what in client.events]
        for gap in gaps(client):
            lines.append((gap.begin_s, "client", f"{pool}: last record acknowledged before a gap of {gap.length_s:.2f} s"))
            lines.append((gap.end_s, "client", f"{pool}: acknowledged again, after {gap.length_s:.2f} s"))
    return sorted(lines)


def gaps(client) -> list:
    """Every gap that is worth a line."""
    from oracle import Gap

    times = sorted(ack.acked_s for ack in client.acks)
    return [Gap(one, two) for one, two in zip(times, times[1:]) if two - one >= GAP_S_MIN]


def fresh_history(scene, machine) -> list[dict]:
    """The controller's transitions since the scene began, each with `wall_s` of its own clock."""
    records = [record for record in pair.history(machine) if record["seq"] > scene.sequence[machine.name]]
    return [{**record, "wall_s": wall_s(record)} for record in records]


def wall_s(record: dict) -> float:
    at = record.get("time") or record.get("wall_ms") or 0
    return (at["$date"] if isinstance(at, dict) else at) / 1000


def takeovers(scene) -> list[tuple[str, int, dict[str, float]]]:
    """(controller, epoch, milliseconds of each phase) of every time that one became MASTER."""
    found = []
    for one in CONTROLLERS:
        for record in fresh_history(scene, one):
            if record["status"] == "MASTER" and record["phases"]:
                found.append((wall_s(record), one.name, record["epoch"], phases_of(record)))
    return [(name, epoch, phases) for _, name, epoch, phases in sorted(found, key=lambda entry: entry[2])]


def phases_of(record: dict) -> dict[str, float]:
    return {phase["phase"]: phase["micros"] / 1000 for phase in record["phases"]}


def place(scene, machine, wall: float) -> float:
    """A time of the machine's wall clock on this computer's. Of the two comparisons that the scene made, the one of the
    same boot counts, and of one boot the first for what was before the first fault."""
    clocks = [clock for clock in scene.clocks[machine.name] if clock]
    if not clocks:
        return wall
    first, last = clocks[0], clocks[-1]
    in_last_boot = last.boot == first.boot or wall >= last.booted_s - 1
    begun = scene.events[0].at_s if scene.events else float("inf")
    if in_last_boot and (last.boot != first.boot or wall + first.ahead_s > begun):
        return wall + last.ahead_s
    return wall + first.ahead_s
