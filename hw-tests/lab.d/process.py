"""Processes of the lab, each known by a file with its pid and start time, so that no other process is ever ended.

A pid alone is not enough: after a reboot or a long time it may be somebody else's.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import topology
from topology import LabError

END_S_MAX = 10.0


def start(name: str, command: list[str], log: Path | None = None) -> int:
    """Starts `command` in a session of its own, with no input; what it prints goes to `log`."""
    output = log.open("ab") if log else None
    try:
        sink = output if output else subprocess.DEVNULL
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    finally:
        if output:
            output.close()
    started = _start_time(child.pid)
    _file(name).write_text(f"{child.pid} {started}\n")
    return child.pid


def alive(name: str) -> int | None:
    """The pid of the process, or nothing if it has ended."""
    try:
        pid, started = (int(word) for word in _file(name).read_text().split())
    except (FileNotFoundError, ValueError):
        return None
    try:
        os.waitpid(pid, os.WNOHANG)  # in case it was our own child
    except ChildProcessError:
        pass
    return pid if _start_time(pid) == started else None


def tell(name: str, what: signal.Signals) -> None:
    pid = alive(name)
    if pid is None:
        raise LabError(f"{name} is not running")
    descriptor = os.pidfd_open(pid)
    try:
        # Checked again now that the descriptor pins the process.
        if alive(name) == pid:
            signal.pidfd_send_signal(descriptor, what)
    finally:
        os.close(descriptor)


def end(name: str) -> bool:
    """Ends the process at once and waits for its end. Answers whether it was there."""
    was_there = alive(name) is not None
    if was_there:
        tell(name, signal.SIGKILL)
        deadline = time.monotonic() + END_S_MAX
        while alive(name) is not None:
            if time.monotonic() > deadline:
                raise LabError(f"{name} (pid {alive(name)}) does not end; its file {_file(name)} is kept")
            time.sleep(0.02)
    _file(name).unlink(missing_ok=True)
    return was_there


def names() -> list[str]:
    """All processes that have a file, living or not."""
    return sorted(path.stem for path in topology.running().glob("*.pid"))


def _file(name: str) -> Path:
    return topology.running() / f"{name}.pid"


def _start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a living process; nothing for one that is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in brackets may hold anything; fields are counted from behind it.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
