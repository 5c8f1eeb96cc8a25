"""What QEMU says of a machine by itself: its watchdog bit, it reset, it panicked. Recorded from power on to power off.

QEMU tells it to whoever listens at that moment, so a process of ours listens all the time, on a socket of its own:

    QEMU ── NAME.events (socket) ── `python3 events.py SOCKET LOG` ── NAME.events.log, one event a line
"""

import json
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import process
import topology
from topology import LabError, Machine

CONNECT_S_MAX = 20.0


@dataclass(frozen=True)
class Event:
    """One line of the log: this computer's clock in seconds, QEMU's name of it (WATCHDOG, RESET, ...), what came with it."""

    at_s: float
    name: str
    data: dict


def record(machine: Machine) -> None:
    """Starts to record; ends by itself when the machine loses its power."""
    name = f"events-{machine.name}"
    process.end(name)
    command = [sys.executable, str(Path(__file__)), str(socket_path(machine)), str(log_path(machine))]
    process.start(name, command, log=topology.running() / f"{name}.log")


def socket_path(machine: Machine) -> Path:
    return topology.running() / f"{machine.name}.events"


def log_path(machine: Machine) -> Path:
    return topology.running() / f"{machine.name}.events.log"


def read(machine: Machine, since_s: float = 0.0) -> list[Event]:
    """All events since `since_s` (seconds of `time.time()`), the oldest first; over all boots of this lab."""
    try:
        lines = log_path(machine).read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        said = json.loads(line)
        at_s = said["timestamp"]["seconds"] + said["timestamp"]["microseconds"] / 1e6
        found.append(Event(at_s, said["event"], said.get("data", {})))
    return [event for event in found if event.at_s >= since_s]


def wait(machine: Machine, name: str, since_s: float, timeout_s: float) -> Event:
    """The first event of this name since `since_s`, which may be long past."""
    deadline = time.monotonic() + timeout_s
    while True:
        for event in read(machine, since_s):
            if event.name == name:
                return event
        if time.monotonic() > deadline:
            said = ", ".join(event.name for event in read(machine, since_s)) or "nothing"
            raise LabError(f"{machine.name}: no event {name} within {timeout_s:.0f} s, but {said}: see {log_path(machine)}")
        time.sleep(0.1)


def _listen(path: str, log: Path) -> None:
    deadline = time.monotonic() + CONNECT_S_MAX
    with socket.socket(socket.AF_UNIX) as line:
        while True:
            try:
                line.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        line.sendall(b'{"execute": "qmp_capabilities"}\n')
        with line.makefile("rb") as stream, log.open("ab") as output:
            for said in stream:
                if "event" in json.loads(said):
                    # One write for each, so that a reader never sees half a line.
                    output.write(said.strip() + b"\n")
                    output.flush()


if __name__ == "__main__":
    _listen(sys.argv[1], Path(sys.argv[2]))
