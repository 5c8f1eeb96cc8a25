"""The lab on paper: which machines, which networks, which addresses. Nothing here touches the system."""

import os
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Several labs can run beside each other on one computer, each in a namespace and a folder of its own.
NAME = os.environ.get("LAB_NAME") or "lab"

# Network name -> third byte of its addresses, 10.77.N.0/24. They exist in the lab's own network namespace only.
NETWORKS = {"mgmt": 0, "hb0": 1, "hb1": 2, "lan": 3, "san0": 4, "san1": 5}
# Networks on which this side has an address too: to log in, and to be a client of the virtual address.
OURS = ("mgmt", "lan")
OUR_NUMBER = 254
# The two ways from a controller to the enclosure; `up --paths 1` leaves the second one without a login.
SANS = ("san0", "san1")

# How the enclosure's disks are spoken to -> the beginning of every name in that language.
NAMES = {"scsi": "iqn.2026-01.lab.failoverd", "nvme": "nqn.2026-01.lab.failoverd"}
DISK_MIB = 256
DISKS_DEFAULT = 8
DISKS_MAX = 64


class LabError(Exception):
    """Something that the user can act on: what, where, what to do."""


@dataclass(frozen=True)
class Machine:
    """One virtual machine."""

    name: str
    role: str  # "enclosure" or "controller", as the image's units know it
    number: int  # last byte of its addresses
    memory_mib: int
    links: tuple[str, ...]

    def address(self, network: str) -> str:
        return f"10.77.{NETWORKS[network]}.{self.number}"

    def mac(self, network: str) -> str:
        return f"52:54:00:77:{NETWORKS[network]:02x}:{self.number:02x}"

    def tap(self, network: str) -> str:
        return f"{self.name[0]}-{network}"


ENCLOSURE = Machine("enclosure", "enclosure", 10, 512, ("mgmt", *SANS))
A = Machine("a", "controller", 1, 1024, ("mgmt", "hb0", "hb1", "lan", *SANS))
B = Machine("b", "controller", 2, 1024, ("mgmt", "hb0", "hb1", "lan", *SANS))
MACHINES = {machine.name: machine for machine in (ENCLOSURE, A, B)}
CONTROLLERS = (A, B)


def machine(name: str) -> Machine:
    found = MACHINES.get(name.lower())
    if found is None:
        raise LabError(f"there is no machine {name!r}: say one of {', '.join(MACHINES)}")
    return found


def storage_name(protocol: str, name: str) -> str:
    """What a machine is called on the storage networks."""
    # Lower case only: the target folds what it compares, but not its list of initiators.
    return f"{NAMES[protocol]}:{name}"


def disk_identity(disk: int) -> str:
    """World-wide name of a shared disk, 32 hexadecimal digits: the target's own prefix and its serial number."""
    return f"6001405{0x1ab:03x}{disk:022x}"


def cache() -> Path:
    """Folder of images and of the running lab: outside the checkout, safe to delete while the lab is down."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LAB_DIR") or Path(base) / "failoverd-lab")


def running() -> Path:
    """Folder of the running lab: sockets, logs, throw-away disks."""
    return cache() / ("run" if NAME == "lab" else f"run-{NAME}")
