"""What may go wrong, at the tester's word. Each verb says in its first sentence what the machine goes through."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import machine as machines
import network
import process
import qmp
import remote
import state
from topology import ENCLOSURE, LabError, Machine

FREEZE_S_MAX = 5.0


def power(machine: Machine) -> str:
    """"on", "off", "frozen" or "paused"."""
    if process.alive(machine.name) is None:
        return "off"
    if _is_stopped(machine):
        return "frozen"
    return "on" if qmp.command(machine, "query-status")["running"] else "paused"


def power_off(machine: Machine) -> None:
    """The machine loses its power at once."""
    remote.disconnect(machine)
    if not process.end(machine.name):
        raise LabError(f"{machine.name} is off already")


def power_on(machine: Machine) -> None:
    """The machine gets power and boots; its own disk is as it was, pulled cables stay pulled."""
    now = state.load()
    machines.power_on(machine, now.as_image(), now.disks, remote.public_key())
    for link in machine.links:
        if now.links.get(f"{machine.name}.{link}") == "down":
            qmp.command(machine, "set_link", name=link, up=False)


def freeze(machine: Machine) -> None:
    """Everything in the machine stands still, but time goes on: it wakes up late and its clocks say so."""
    process.tell(machine.name, signal.SIGSTOP)
    # The signal returns before every thread has stopped.
    deadline = time.monotonic() + FREEZE_S_MAX
    while not _is_stopped(machine):
        if time.monotonic() > deadline:
            raise LabError(f"{machine.name} does not stop within {FREEZE_S_MAX:.0f} s")
        time.sleep(0.005)


def thaw(machine: Machine) -> None:
    """Ends a freeze."""
    process.tell(machine.name, signal.SIGCONT)


def pause(machine: Machine) -> None:
    """The machine stands still together with its clocks: when it goes on it cannot know that time has passed."""
    qmp.command(machine, "stop")


def resume(machine: Machine) -> None:
    """Ends a pause."""
    qmp.command(machine, "cont")


def reset(machine: Machine) -> None:
    """The machine's reset line is pulled."""
    remote.disconnect(machine)
    qmp.command(machine, "system_reset")


def link_down(machine: Machine, link: str) -> None:
    """The cable is pulled at the machine: its card loses the carrier."""
    qmp.command(machine, "set_link", name=link, up=False)
    _remember(machine, link, "down")


def link_cut(machine: Machine, link: str) -> None:
    """The cable is dead behind the machine's switch: the carrier stays, nothing passes."""
    network.cut(machine, link)
    _remember(machine, link, "cut")


def link_up(machine: Machine, link: str) -> None:
    """The cable is whole again, whichever way it was broken."""
    network.join(machine, link)
    if process.alive(machine.name):
        qmp.command(machine, "set_link", name=link, up=True)
    _remember(machine, link, None)


def disk_hang(disk: int) -> None:
    """Commands to a shared disk get no answer until `disk-heal`, reservations included where they need the medium."""
    remote.must(ENCLOSURE, f"dmsetup suspend --noflush --nolockfs {_slice(disk)}")


def disk_fail(disk: int) -> None:
    """Every read and write of a shared disk fails."""
    _reload(disk, "error")


def disk_heal(disk: int) -> None:
    """A shared disk answers again."""
    _reload(disk, "linear")


OF_MACHINE: dict[str, Callable[[Machine], None]] = {
    "power-off": power_off, "power-on": power_on, "reset": reset,
    "freeze": freeze, "thaw": thaw, "pause": pause, "resume": resume,
}
OF_LINK: dict[str, Callable[[Machine, str], None]] = {
    "link-down": link_down, "link-cut": link_cut, "link-up": link_up,
}
OF_DISK: dict[str, Callable[[int], None]] = {
    "disk-hang": disk_hang, "disk-fail": disk_fail, "disk-heal": disk_heal,
}


def _is_stopped(machine: Machine) -> bool:
    pid = process.alive(machine.name)
    if pid is None:
        raise LabError(f"{machine.name} is off")
    tasks = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(task.read_text().rpartition(")")[2].split()[0] in "TZX" for task in tasks)


def _reload(disk: int, target: str) -> None:
    """Gives the slice another table and lets it go on, whether it was suspended or not."""
    name = _slice(disk)
    length = int(remote.must(ENCLOSURE, f"blockdev --getsz /dev/mapper/{name}"))
    line = f"0 {length} linear /dev/vdb {disk * length}" if target == "linear" else f"0 {length} {target}"
    suspend = f"dmsetup suspend --noflush --nolockfs {name}"
    remote.must(ENCLOSURE, f"{suspend}; dmsetup load {name} --table '{line}' && dmsetup resume {name}")


def _slice(disk: int) -> str:
    disks = state.load().disks
    if not 0 <= disk < disks:
        raise LabError(f"there is no shared disk {disk}: say 0 to {disks - 1}")
    return f"disk{disk}"


def _remember(machine: Machine, link: str, what: str | None) -> None:
    now = state.load()
    now.links.pop(f"{machine.name}.{link}", None)
    if what:
        now.links[f"{machine.name}.{link}"] = what
    state.save(now)
