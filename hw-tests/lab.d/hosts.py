"""The same trials on real machines: `lab test --hosts FILE NAME...`.

Nothing is done to a machine before its consent gate has said yes there: `lab-gate check` runs on each of them and compares
the machine's serial, every disk and the right to reset with the consent file that a person wrote on that machine. What the
lab does to its virtual machines by itself, a command of the file does here, or a person who is asked for it.

    virtual_address = "192.0.2.10"        # of pool tank; the recorder listens there, see README.md
    disks = ["naa.5000c500a1b2c3d4"]      # shared disks, which the trials may destroy
    fs = "zfs"
    [a]
    ssh = "root@192.0.2.1"
    machine = "SN1"                       # as `lab-gate identity` prints it there
    [b]
    ssh = "root@192.0.2.2"
    machine = "SN2"
    [faults]                              # a command of this computer; a verb without one is asked of a person
    power-off = "ipmitool -H bmc-{machine} chassis power off"

The product, `lab-gate` (/usr/local/sbin) and the recorder's unit are installed there by hand; trials that need another
installation than that are refused.
"""

import inspect
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import faults
import install
import network
import process
import remote
import session
import state
import topology
from topology import CONTROLLERS, ENCLOSURE, LabError, Machine

COMMAND_S_MAX = 300.0
GATE = "/usr/local/sbin/lab-gate"
KEYS = {"virtual_address", "disks", "fs", "a", "b", "faults"}


def use(path: str, folder: str | None) -> None:
    """Points remote commands, faults and clients at the machines of the file, once each of them has consented."""
    file = read(path)
    topology.running().mkdir(parents=True, exist_ok=True, mode=0o700)
    remote.reach = lambda machine: _ssh(file, machine)
    for one in CONTROLLERS:
        consent(file, one)
    network.client = lambda command: command
    process_alive = process.alive
    machines = {one.name for one in CONTROLLERS}
    process.alive = lambda name: 1 if name in machines else process_alive(name)
    faults.power = lambda machine: "on"
    faults.heal = lambda: _ask("mend every fault: power, cables, disks", {}, file)
    for name, act in list(faults.VERBS.items()):
        if act.__name__ != "heal":
            setattr(faults, act.__name__, _doer(file, name, act))
    install.VIRTUAL_ADDRESS = file["virtual_address"]
    install.install = _refuse_install
    state.load = lambda: state.State("", len(file["disks"]), 1)
    topology.disk_identity = session.disk_identity = lambda disk: _bare(file["disks"][disk])
    binaries = Path(folder or topology.HERE.parents[1] / "target/debug")
    install.remember(binaries, install.Layout(fs=file.get("fs", "zfs"), profile="product"), {})


def read(path: str) -> dict:
    """The file, or what is wrong with it."""
    try:
        import tomllib
    except ImportError:
        raise LabError("real machines need Python 3.11 or newer on this computer (tomllib)") from None
    try:
        file = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise LabError(f"{path}: {error}") from None
    unknown = sorted(set(file) - KEYS)
    if unknown:
        raise LabError(f"{path}: unknown keys {', '.join(unknown)}: see hw-tests/lab.d/hosts.py for its form")
    for key in ("virtual_address", "disks", "a.ssh", "a.machine", "b.ssh", "b.machine"):
        value = file
        for word in key.split("."):
            value = value.get(word) if isinstance(value, dict) else None
        if not value:
            raise LabError(f"{path}: {key} is missing: see hw-tests/lab.d/hosts.py for its form")
    if file["a"]["machine"] == file["b"]["machine"] or file["a"]["ssh"] == file["b"]["ssh"]:
        raise LabError(f"{path}: a and b are the same machine")
    wrong = sorted(set(file.get("faults", {})) - set(faults.VERBS))
    if wrong:
        raise LabError(f"{path}: no such fault: {', '.join(wrong)}; there are {', '.join(faults.VERBS)}")
    return file


def consent(file: dict, machine: Machine) -> None:
    """The gate's yes on the machine itself; anything else ends the run."""
    words = [GATE, "check", "--reset", "--machine", file[machine.name]["machine"]]
    for disk in file["disks"]:
        words += ["--disk", disk]
    try:
        done = subprocess.run([*_ssh(file, machine), shlex.join(words)], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{machine.name}: the consent can't be asked for, nothing is done: {error}") from None
    if done.returncode != 0 or not done.stdout.startswith("consent given"):
        raise LabError(f"{machine.name}: no consent, nothing is done: {(done.stderr or done.stdout).strip()}")
    print(f"{machine.name}: {done.stdout.strip()}")


def _ssh(file: dict, machine: Machine) -> list[str]:
    if machine.name == ENCLOSURE.name:
        raise LabError("a real enclosure takes no commands: this trial needs a configured command or a person for it")
    options = ["BatchMode=yes", "ConnectTimeout=5", "ServerAliveInterval=3", "ServerAliveCountMax=3"]
    words = ["ssh"]
    for option in options:
        words += ["-o", option]
    return [*words, file[machine.name]["ssh"]]


def _doer(file: dict, name: str, act: Callable[..., None]) -> Callable[..., None]:
    names = list(inspect.signature(act).parameters)

    def do(*values: object) -> None:
        words = dict(zip(names, (value.name if isinstance(value, Machine) else str(value) for value in values)))
        machine = next((value for value in values if isinstance(value, Machine)), None)
        if machine is not None and name in ("power-off", "reset", "panic", "freeze", "pause"):
            remote.disconnect(machine)
        _ask(f"{name} {' '.join(words.values())}: {act.__doc__}", words, file, name)

    return do


def _ask(what: str, words: dict[str, str], file: dict, name: str | None = None) -> None:
    """Runs the configured command of a fault, or asks a person for it."""
    command = file.get("faults", {}).get(name) if name else None
    if command:
        done = subprocess.run(command.format(**words), shell=True, stdin=subprocess.DEVNULL, timeout=COMMAND_S_MAX, check=False)
        if done.returncode != 0:
            raise LabError(f"{what}: its command failed with {done.returncode}: {command}")
        return
    if not sys.stdin.isatty():
        raise LabError(f"{what}: no command is configured for it and nobody is here to be asked")
    if input(f"\n  PLEASE DO NOW: {what}\n  then type `done` (anything else gives up): ").strip() != "done":
        raise LabError(f"{what}: was not done")


def _refuse_install(*_: object, **__: object) -> None:
    raise LabError("nothing is installed on real machines from here: this trial needs another installation than they have")


def _bare(identity: str) -> str:
    return identity.removeprefix("naa.").removeprefix("wwn-0x")
