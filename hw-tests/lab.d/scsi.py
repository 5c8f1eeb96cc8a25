"""What a tester does to a shared disk from a controller: reservations, and reads and writes past the page cache."""

import remote
from topology import LabError, Machine

WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
BLOCK = 4096


def persist(machine: Machine, path: str, words: str) -> remote.Result:
    # The first command after somebody else's change answers only that there was one (a unit attention); ask again.
    return remote.run(machine, f"sg_persist --no-inquiry {words} {path} || sg_persist --no-inquiry {words} {path}")


def must(machine: Machine, path: str, words: str) -> None:
    # Whatever there is to be told (a unit attention) is told to the first command.
    remote.must(machine, f"sg_turs {path} >/dev/null 2>&1; sg_persist --no-inquiry {words} {path}")


def clear(machine: Machine, path: str) -> None:
    """Ends whatever an earlier run may have left; a disk without a reservation takes it too."""
    persist(machine, path, "--out --register-ignore --param-sark=0x1")
    persist(machine, path, "--out --clear --param-rk=0x1")


def keys(machine: Machine, path: str) -> set[str]:
    text = persist(machine, path, "--in --read-keys").out
    return {line.strip() for line in text.splitlines() if line.strip().startswith("0x")}


def write(machine: Machine, path: str, text: str) -> bool:
    """Whether the disk took it. Another failure than a refusal is an error."""
    command = f"dd of={path} bs={BLOCK} conv=sync,notrunc iflag=fullblock oflag=direct status=none"
    result = remote.run(machine, command, text_in=text)
    refused = result.code != 0 and "Invalid exchange" in result.err  # EBADE: reservation conflict
    if result.code != 0 and not refused:
        raise LabError(f"{machine.name}: write of {path} failed, but not by a reservation: {result.err.strip()}")
    return not refused


def read(machine: Machine, path: str) -> str:
    return remote.must(machine, f"{reading(path)} status=none").rstrip("\0")


def reads(machine: Machine, path: str, timeout_s: float = 40.0) -> bool:
    """Whether a block can be read at all."""
    return remote.run(machine, f"{reading(path)} status=none >/dev/null", timeout_s).code == 0


def reading(path: str) -> str:
    """The command that reads a block."""
    return f"dd if={path} bs={BLOCK} count=1 iflag=direct"
