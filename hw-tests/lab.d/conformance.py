"""The lab as the target of the conformance list: a line from the judge is a command on a path, or a fault of the enclosure.

The lines are described in src/reservations.rs."""

import select
import subprocess
import time

import faults
import install
import remote
import state
from topology import CONTROLLERS, ENCLOSURE, SANS, LabError, storage_name

# The disk whose first block and reservations the list changes.
DISK = 0
BOOT_S_MAX = 300.0
SESSIONS_S_MAX = 120.0


class Nexuses:
    """A program on each path of each controller that carries out one command after the other."""

    def __init__(self) -> None:
        self._paths: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Nexuses":
        for one in CONTROLLERS:
            for path in range(state.load().paths):
                device = f"/dev/disk/by-path/ip-{ENCLOSURE.address(SANS[path])}:3260-iscsi-{storage_name('scsi', 'enclosure')}-lun-{DISK}"
                process = remote.start(one, f"exec {install.CONFORMANCE} serve {device}")
                self._paths[f"{one.name.upper()}{path}"] = process
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._paths.values():
            process.kill()
            process.wait()
        if state.load().faults.get(f"disk {DISK}"):
            faults.disk_heal(DISK)

    def carry_out(self, word: str, rest: str) -> str | None:
        """Answers a line of the judge; nothing where it wants no answer."""
        if word == "begin":
            nexus, _, command = rest.partition(" ")
            self._paths[nexus].stdin.write(f"{command}\n".encode())
            self._paths[nexus].stdin.flush()
            return None
        if word == "end":
            nexus, _, wait_ms = rest.partition(" ")
            return self._answer(nexus, int(wait_ms) / 1e3)
        try:
            {"medium stops": _stop, "medium goes on": _go_on, "power cycle": _power_cycle}[rest]()
        except LabError as error:
            return str(error)
        return "done"

    def _answer(self, nexus: str, wait_s: float) -> str:
        process = self._paths[nexus]
        # One line for each command: nothing waits in the buffer behind it.
        if not select.select([process.stdout], [], [], wait_s)[0]:
            return "-"
        line = process.stdout.readline().decode(errors="replace").strip()
        if not line:
            raise LabError(f"{nexus}: {install.CONFORMANCE} ended: {process.stderr.read().decode(errors='replace').strip()}")
        return line


def _stop() -> None:
    faults.disk_hang(DISK)


def _go_on() -> None:
    faults.disk_heal(DISK)


def _power_cycle() -> None:
    # A target has its registrations on stable storage before it answers; here a program copies them there after that.
    kept = "for file in /etc/target/pr/aptpl_*; do until cmp -s $file /run/lab-kept/${file##*/}; do sleep 0.05; done; done"
    remote.must(ENCLOSURE, kept)
    faults.power_off(ENCLOSURE)
    faults.power_on(ENCLOSURE)
    remote.wait_until_up(ENCLOSURE, BOOT_S_MAX)
    # Asked of the sessions, not of the disk: a command would be told what the list wants to hear.
    wanted = "\n".join(["LOGGED_IN"] * state.load().paths)
    deadline = time.monotonic() + SESSIONS_S_MAX
    for one in CONTROLLERS:
        while remote.run(one, "cat /sys/class/iscsi_session/session*/state").out.strip() != wanted:
            if time.monotonic() > deadline:
                raise LabError(f"{one.name} has not logged in again within {SESSIONS_S_MAX:.0f} s")
            time.sleep(0.3)
