"""`lab up`, `down` and `status`."""

import shutil
import time

import faults
import image
import machine as machines
import network
import process
import remote
import state
import topology
from topology import CONTROLLERS, ENCLOSURE, MACHINES, SANS, LabError, Machine, disk_identity

BOOT_S_MAX = 240.0
# For a busy computer: there, every further device costs a second or two of the machine's boot.
DISKS_S_MAX = 120.0
DEVICE_S_MAX = 4.0
# Unix sockets take at most 107 bytes; the longest name in the folder is "enclosure.serial".
FOLDER_BYTES_MAX = 107 - len("/enclosure.serial.0123456789abcdef")


def up(disks: int, paths: int = 1, protocol: str = "scsi") -> None:
    """Boots all three machines and waits until both controllers have every disk. What fails is taken down again."""
    machines.need_programs()
    if not 1 <= disks <= topology.DISKS_MAX:
        raise LabError(f"{disks} disks: say 1 to {topology.DISKS_MAX}")
    if not 1 <= paths <= len(SANS):
        raise LabError(f"{paths} paths: say 1 to {len(SANS)}")
    built = image.find().folder
    enclosure = image.find("packages-nvme").folder if protocol == "nvme" else built
    folder = topology.running()
    if len(str(folder)) > FOLDER_BYTES_MAX:
        raise LabError(f"{folder} is too long a name for sockets: set LAB_DIR to at most {FOLDER_BYTES_MAX - 4} bytes")
    if process.names() or network.exists():
        raise LabError("the lab is up, or was not taken down: run `lab down` first")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    began = time.monotonic()
    try:
        _boot(state.State(str(built), disks, paths, protocol, str(enclosure)), began)
    except BaseException:
        for name in process.names():
            process.end(name)
        network.remove()
        raise


def _boot(now: state.State, began: float) -> None:
    key = remote.make_key()
    network.make()
    machines.make_disks(now)
    state.save(now)
    # The enclosure first: the controllers wait for its disks anyway.
    for one in (ENCLOSURE, *CONTROLLERS):
        machines.power_on(one, now, key)
    for one in (ENCLOSURE, *CONTROLLERS):
        remote.wait_until_up(one, BOOT_S_MAX)
        print(f"{one.name:10} answers after {time.monotonic() - began:5.1f} s", flush=True)
    for one in CONTROLLERS:
        wait_for_disks(one, now.disks)
        print(f"{one.name:10} has {now.disks} disks after {time.monotonic() - began:5.1f} s", flush=True)


def wait_for_disks(machine: Machine, disks: int) -> None:
    """Until every shared disk has its name under /dev/disk/by-id and is there once for each path."""
    names = " ".join(disk_path(disk) for disk in range(disks))
    now = state.load()
    if now.protocol == "nvme":
        # One device for all paths of a disk; a controller of the fabric for each path.
        devices, kind = now.paths, "/sys/class/nvme/*"
    else:
        devices, kind = disks * now.paths, "/sys/class/scsi_disk/*"
    limit_s = DISKS_S_MAX + DEVICE_S_MAX * devices
    deadline = time.monotonic() + limit_s
    while remote.run(machine, f"ls {names} && set -- {kind} && [ $# -eq {devices} ]").code != 0:
        if time.monotonic() > deadline:
            journal = remote.run(machine, "journalctl -b -u lab-disks -u iscsid --no-pager | tail -n 5").out
            raise LabError(f"{machine.name} has not all {disks} disks after {limit_s:.0f} s: {journal.strip()}")
        time.sleep(0.3)


def disk_path(disk: int) -> str:
    kind = "nvme-eui." if state.load().protocol == "nvme" else "wwn-0x"
    return f"/dev/disk/by-id/{kind}{disk_identity(disk)}"


def down() -> None:
    """Ends every process that `lab up` started and removes the namespace; the logs stay until the next `lab up`."""
    ended = [name for name in process.names() if process.end(name)]
    network.remove()
    (topology.running() / "lab.json").unlink(missing_ok=True)
    for path in topology.running().glob("*.qcow2"):
        path.unlink()
    for path in topology.running().glob("*.raw"):
        path.unlink()
    print(f"ended: {', '.join(ended) or 'nothing was running'}; logs are in {topology.running()}")


def status() -> None:
    now = state.load()
    print(f"image     {now.image_of(CONTROLLERS[0]).folder.name}, {now.disks} disks of {topology.DISK_MIB} MiB, {now.paths} path(s), {now.protocol}")
    for one in MACHINES.values():
        links = [f"{link} {now.faults.get(f'{one.name}.{link}', 'up')}" for link in one.links]
        print(f"{one.name:9} {faults.power(one):7} {one.address('mgmt'):11} {', '.join(links)}")
    for what, how in now.faults.items():
        if "." not in what:
            print(f"broken    {what}: {how}")
