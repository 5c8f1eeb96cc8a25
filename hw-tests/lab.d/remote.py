"""Commands on a machine, over ssh from inside the lab's namespace.

One connection per machine is kept open: each new one costs a second under emulation.
"""

import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import network
import process
import topology
from topology import LabError, Machine

CONNECT_S_MAX = 30.0
# For real machines: words of the ssh command to one; nothing in the lab.
reach: Callable[[Machine], list[str]] | None = None


@dataclass(frozen=True)
class Result:
    """What a command on a machine answered."""

    code: int
    out: str
    err: str


def make_key() -> str:
    """A new key for this run of the lab. Answers its public half, "TYPE BASE64"."""
    path = topology.running() / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path)], check=True)
    return public_key()


def public_key() -> str:
    return " ".join((topology.running() / "key.pub").read_text().split()[:2])


def run(machine: Machine, command: str, timeout_s: float = 30.0, text_in: str | bytes = b"") -> Result:
    """Runs a shell command line. An exit code other than 0 is an answer; a machine that doesn't answer is an error."""
    _connect(machine)
    sent = text_in.encode() if isinstance(text_in, str) else text_in
    try:
        done = subprocess.run(
            [*_ssh(machine), command], input=sent, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"{machine.name} did not end {command!r} within {timeout_s:.0f} s") from None
    result = Result(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    if result.code == 255:
        disconnect(machine)
        raise LabError(f"the connection to {machine.name} broke: {result.err.strip()}")
    return result


def must(machine: Machine, command: str, timeout_s: float = 30.0, text_in: str | bytes = b"") -> str:
    """Runs a shell command line that has to exit with 0. Answers what it printed."""
    result = run(machine, command, timeout_s, text_in)
    if result.code != 0:
        raise LabError(f"{machine.name}: {command!r} failed with {result.code}: {(result.err or result.out).strip()}")
    return result.out


def start(machine: Machine, command: str) -> subprocess.Popen[bytes]:
    """Begins a shell command line that ends when its standard input does."""
    _connect(machine)
    pipe = subprocess.PIPE
    return subprocess.Popen([*_ssh(machine), command], stdin=pipe, stdout=pipe, stderr=pipe)


def send_file(machine: Machine, content: bytes, path: str, mode: str = "644") -> None:
    """Writes a file on the machine, durably: it may lose its power at once. Running programs keep the one they have open."""
    name = shlex.quote(path)
    must(machine, f"cat >{name}.new && chmod {mode} {name}.new && sync {name}.new && mv {name}.new {name}", 60.0, content)


def wait_until_up(machine: Machine, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        if not process.alive(machine.name):
            raise LabError(f"{machine.name} has ended: see {topology.running() / machine.name}.qemu.log")
        try:
            must(machine, "true")
            return
        except LabError as error:
            if time.monotonic() > deadline:
                log = f"{topology.running() / machine.name}.console.log"
                raise LabError(f"{machine.name} is not up after {timeout_s:.0f} s ({error}); see {log}") from None
            time.sleep(0.3)


def interactive(machine: Machine, command: list[str]) -> int:
    words = _ssh(machine, shared=False)
    if not command:
        words.insert(-1, "-t")
    return subprocess.run([*words, *command], check=False).returncode


def disconnect(machine: Machine) -> None:
    """Ends the kept connection, if there is one. To be called when a machine loses its power."""
    process.end(_connection(machine))
    _socket(machine).unlink(missing_ok=True)


def _connect(machine: Machine) -> None:
    if process.alive(_connection(machine)) and _socket(machine).exists():
        return
    disconnect(machine)
    command = [*_ssh(machine)[:-1], "-M", "-N", _ssh(machine)[-1]]
    process.start(_connection(machine), command)
    deadline = time.monotonic() + CONNECT_S_MAX
    while not _socket(machine).exists():
        if not process.alive(_connection(machine)) or time.monotonic() > deadline:
            disconnect(machine)
            raise LabError(f"{machine.name} doesn't answer at {machine.address('mgmt')}, port 22")
        time.sleep(0.05)


def _ssh(machine: Machine, shared: bool = True) -> list[str]:
    if reach is not None:
        words = reach(machine)
        return [*words[:-1], "-o", f"ControlPath={_socket(machine)}", words[-1]]
    # The host's key changes at each `lab up`, and the network is our own: there is nobody to be fooled by.
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"]
    # The newer exchanges of keys cost a second under emulation.
    options += ["KexAlgorithms=curve25519-sha256", "ConnectTimeout=15", "ServerAliveInterval=10", "ServerAliveCountMax=6"]
    options += [f"ControlPath={_socket(machine)}" if shared else "ControlPath=none"]
    words = ["ssh", "-F", "none", "-i", str(topology.running() / "key")]
    for option in options:
        words += ["-o", option]
    return network.inside([*words, f"root@{machine.address('mgmt')}"])


def _connection(machine: Machine) -> str:
    return f"ssh-{machine.name}"


def _socket(machine: Machine) -> Path:
    return topology.running() / f"{machine.name}.ssh"
