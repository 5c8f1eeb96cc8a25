"""What may go wrong, at the tester's word. Each verb says in its first sentence what the machine goes through.

What a verb needs is told by the names of its parameters, in the command line's order: `machine`, `link` (of that machine),
`disk` (a shared disk's number), and numbers with their unit in the name. What can outlive a command is in the lab's
state, under "MACHINE.LINK", "disk N", "MACHINE disk N", "MACHINE refused N", so that `heal` and `status` know of it.
"""

import inspect
import signal
import time
from collections.abc import Callable
from pathlib import Path

import events
import machine as machines
import network
import process
import qmp
import remote
import state
import topology
from topology import ENCLOSURE, MACHINES, SANS, LabError, Machine

FREEZE_S_MAX = 5.0
PANIC_S_MAX = 15.0
BOOT_S_MAX = 120.0


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
    now = state.load()
    # A boot gives a controller every disk, and the enclosure sound ones.
    for key in [key for key in now.faults if key.startswith(f"{machine.name} ") or (machine is ENCLOSURE and key.startswith("disk "))]:
        del now.faults[key]
    state.save(now)


def power_on(machine: Machine) -> None:
    """The machine gets power and boots; its own disk is as it was, pulled cables stay pulled."""
    now = state.load()
    machines.power_on(machine, now, remote.public_key())
    for link in machine.links:
        if now.faults.get(f"{machine.name}.{link}") == "down":
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


def panic(machine: Machine) -> None:
    """The machine's kernel panics, and boots again after a second."""
    began_s = time.time()
    _last_words(machine, "echo c >/proc/sysrq-trigger")
    if machine is not ENCLOSURE:
        events.wait(machine, "GUEST_PANICKED", began_s, PANIC_S_MAX)


def hang(machine: Machine) -> None:
    """Nothing runs in the machine any more but its kernel: only its watchdog, if somebody had armed it, gets it out."""
    # One processor, and a thread that never leaves it to any other: neither does the kernel throttle it, nor keep a share
    # for ordinary threads (the "fair server").
    keep = "mount -t debugfs none /sys/kernel/debug; echo 0 >/sys/kernel/debug/sched/fair_server/cpu0/runtime"
    _last_words(machine, f"{keep}; echo -1 >/proc/sys/kernel/sched_rt_runtime_us; exec chrt -f 99 sh -c 'while :; do :; done'")


def clock_step(machine: Machine, seconds: int) -> None:
    """The machine's wall clock jumps by so many seconds, forward or (with a minus sign) back."""
    remote.must(machine, f"date -s '{seconds:+d} seconds'")
    _remember(f"{machine.name} clock", f"stepped {seconds:+d} s")


def link_down(machine: Machine, link: str) -> None:
    """The cable is pulled at the machine: its card loses the carrier."""
    qmp.command(machine, "set_link", name=link, up=False)
    _remember(f"{machine.name}.{link}", "down")


def link_cut(machine: Machine, link: str) -> None:
    """The cable is dead behind the machine's switch: the carrier stays, nothing passes."""
    network.cut(machine, link)
    _remember(f"{machine.name}.{link}", "cut")


def link_loss(machine: Machine, link: str, percent: int) -> None:
    """The cable loses so many of a hundred packets, in both directions."""
    if not 1 <= percent <= 100:
        raise LabError(f"a loss of {percent} percent: say 1 to 100")
    network.lose(machine, link, percent)
    _remember(f"{machine.name}.{link}", f"loses {percent} %")


def link_up(machine: Machine, link: str) -> None:
    """The cable is whole again, whichever way it was broken."""
    network.join(machine, link)
    network.lose(machine, link, 0)
    if process.alive(machine.name):
        qmp.command(machine, "set_link", name=link, up=True)
    _remember(f"{machine.name}.{link}", None)


def storage_down(machine: Machine) -> None:
    """Every path from the machine to the shared disks is gone; for the enclosure, every path of both controllers."""
    for link in SANS:
        link_down(machine, link)


def storage_up(machine: Machine) -> None:
    """Every path is back."""
    for link in SANS:
        link_up(machine, link)


def disk_hang(disk: int) -> None:
    """Reads and writes of a shared disk get no answer until `disk-heal`; its reservations are still read and changed."""
    remote.must(ENCLOSURE, f"dmsetup suspend --noflush --nolockfs {_slice(disk)}")
    _remember(f"disk {disk}", "hangs")


def disk_fail(disk: int) -> None:
    """Every read and write of a shared disk fails."""
    _reload(disk, "error")
    _remember(f"disk {disk}", "fails")


def disk_slow(disk: int, ms: int) -> None:
    """Every read and write of a shared disk takes so much longer."""
    _reload(disk, "delay", f" {ms}")
    _remember(f"disk {disk}", f"slow by {ms} ms")


def disk_heal(disk: int) -> None:
    """A shared disk answers again, at once and rightly."""
    _reload(disk, "linear")
    _remember(f"disk {disk}", None)


def disk_pull(machine: Machine, disk: int) -> None:
    """A shared disk is gone from one controller: its kernel drops it, by every path. The other one still has it."""
    name = _identity(machine, disk)
    # The names differ at each boot and between controllers; the identity does not.
    gone = f"for disk in $(grep -l {name} /sys/block/sd*/device/wwid); do echo 1 >${{disk%wwid}}delete; done"
    remote.must(machine, gone)
    _remember(f"{machine.name} disk {disk}", "pulled")


def disk_insert(machine: Machine, disk: int) -> None:
    """Ends a pull."""
    _identity(machine, disk)
    remote.must(machine, f"for host in /sys/class/iscsi_host/host*; do echo 0 0 {disk} >/sys/class/scsi_host/${{host##*/}}/scan; done")
    _remember(f"{machine.name} disk {disk}", None)


def disk_refuse(machine: Machine, disk: int) -> None:
    """A shared disk refuses every reservation and write of one controller, which still sees and reads it."""
    _write_protect(machine, disk, 1)
    _remember(f"{machine.name} refused {disk}", "write-protected")


def disk_obey(machine: Machine, disk: int) -> None:
    """Ends a refusal."""
    _write_protect(machine, disk, 0)
    # Its kernel has noted that the disk is write-protected.
    name = _identity(machine, disk)
    remote.must(machine, f"for disk in $(grep -l {name} /sys/block/sd*/device/wwid); do echo 1 >${{disk%wwid}}rescan; done")
    _remember(f"{machine.name} refused {disk}", None)


def forget(machine: Machine) -> None:
    """The enclosure, which has to be off, loses the reservations that it had stored for its next boot."""
    if machine is not ENCLOSURE:
        raise LabError(f"only the enclosure stores reservations, not {machine.name}")
    if process.alive(machine.name):
        raise LabError(f"{machine.name} is on: `lab fault power-off {machine.name}` first")
    machines.forget_registrations()


def heal() -> None:
    """Everything that the faults broke is whole again; what is off gets power, and `heal` waits until it answers."""
    for machine in MACHINES.values():
        {"off": power_on, "frozen": thaw, "paused": resume, "on": lambda machine: None}[power(machine)](machine)
    for key in list(state.load().faults):
        name, _, link = key.partition(".")
        if link:
            link_up(MACHINES[name], link)
    for machine in MACHINES.values():
        remote.wait_until_up(machine, BOOT_S_MAX)
    for key in list(state.load().faults):
        match key.split():
            case ["disk", disk]:
                disk_heal(int(disk))
            case [name, "disk", disk]:
                disk_insert(MACHINES[name], int(disk))
            case [name, "refused", disk]:
                disk_obey(MACHINES[name], int(disk))
            case [name, "clock"]:
                remote.must(MACHINES[name], f"date -s @{time.time():.3f}")
                _remember(key, None)


VERBS: dict[str, Callable[..., None]] = {
    act.__name__.replace("_", "-"): act
    for act in (
        power_off, power_on, reset, freeze, thaw, pause, resume, panic, hang, clock_step, forget,
        link_down, link_cut, link_loss, link_up, storage_down, storage_up,
        disk_hang, disk_fail, disk_slow, disk_heal, disk_pull, disk_insert, disk_refuse, disk_obey, heal,
    )
}


def explain() -> str:
    """A line for each verb, as the command line takes it."""
    calls = {" ".join([name, *(word.upper() for word in inspect.signature(act).parameters)]): act for name, act in VERBS.items()}
    return "\n".join(f"  {call:31} {act.__doc__}" for call, act in calls.items())


def carry_out(verb: str, words: list[str]) -> None:
    """Runs a verb with the words of the command line."""
    names = list(inspect.signature(VERBS[verb]).parameters)
    if len(names) != len(words):
        raise LabError(f"fault {verb} wants {len(names)} words ({' '.join(names).upper()}), not {len(words)}: see `lab fault --help`")
    values: dict[str, object] = {}
    for name, word in zip(names, words):
        if name == "machine":
            values[name] = topology.machine(word)
        elif name == "link":
            machine = values["machine"]
            if word not in machine.links:
                raise LabError(f"{machine.name} has no link {word!r}: say one of {', '.join(machine.links)}")
            values[name] = word
        else:
            try:
                values[name] = int(word)
            except ValueError:
                raise LabError(f"fault {verb}: {name} has to be a whole number, not {word!r}") from None
    VERBS[verb](**values)


def _last_words(machine: Machine, command: str) -> None:
    """Has the machine do something after which it can't answer."""
    remote.must(machine, f"(sleep 0.3; {command}) >/dev/null 2>&1 </dev/null &")
    remote.disconnect(machine)


def _identity(machine: Machine, disk: int) -> str:
    """As the kernel shows it, of a disk that a controller is to have."""
    if machine is ENCLOSURE:
        raise LabError("the enclosure's own view of a disk can't be taken away: say a controller, or `disk-fail`")
    _slice(disk)
    return f"naa.{topology.disk_identity(disk)}"


def _write_protect(machine: Machine, disk: int, word: int) -> None:
    _identity(machine, disk)
    initiator = topology.storage_name(state.load().protocol, machine.name)
    mapped = f"/sys/kernel/config/target/iscsi/*/tpgt_*/acls/{initiator}/lun_{disk}/write_protect"
    remote.must(ENCLOSURE, f"for file in {mapped}; do echo {word} >$file || exit 1; done")


def _is_stopped(machine: Machine) -> bool:
    pid = process.alive(machine.name)
    if pid is None:
        raise LabError(f"{machine.name} is off")
    tasks = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(task.read_text().rpartition(")")[2].split()[0] in "TZX" for task in tasks)


def _reload(disk: int, target: str, more: str = "") -> None:
    """Gives the slice another table and lets it go on, whether it was suspended or not."""
    name = _slice(disk)
    length = int(remote.must(ENCLOSURE, f"blockdev --getsz /dev/dm-{disk}"))
    line = f"0 {length} error" if target == "error" else f"0 {length} {target} /dev/vdb {disk * length}{more}"
    suspend = f"dmsetup suspend --noflush --nolockfs {name}"
    remote.must(ENCLOSURE, f"{suspend}; dmsetup load {name} --table '{line}' && dmsetup resume --noudevsync {name}")


def _slice(disk: int) -> str:
    disks = state.load().disks
    if not 0 <= disk < disks:
        raise LabError(f"there is no shared disk {disk}: say 0 to {disks - 1}")
    return f"disk{disk}"


def _remember(what: str, how: str | None) -> None:
    now = state.load()
    now.faults.pop(what, None)
    if how:
        now.faults[what] = how
    state.save(now)
