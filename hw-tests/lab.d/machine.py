"""A virtual machine as a process: its disks, its command line, power."""

import os
import shutil
import subprocess
from pathlib import Path

import events
import network
import process
import topology
from image import Image
from state import State
from topology import CONTROLLERS, ENCLOSURE, MACHINES, SANS, LabError, Machine

# Quiet, deterministic and as little work as possible under emulation. oops=panic: an emulated processor faults now and then,
# one boot in forty, while the kernel patches itself, and the machine would hang; so it boots again.
KERNEL_WORDS = (
    "console=ttyS0 net.ifnames=0 quiet loglevel=3 mitigations=off audit=0 apparmor=0 selinux=0 nokaslr cryptomgr.notests "
    "tsc=reliable random.trust_cpu=on systemd.show_status=0 panic=1 oops=panic"
)
STORED_MIB = 8


def need_programs() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab makes a network namespace and taps: run it as root")
    needed = {"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "ip": "iproute2",
              "nsenter": "util-linux", "ssh": "openssh-client", "mkfs.ext4": "e2fsprogs", "nft": "nftables"}
    missing = [package for program, package in needed.items() if shutil.which(program) is None]
    if missing:
        raise LabError(f"missing programs; on Debian: apt install {' '.join(missing)}")
    if not os.path.exists("/dev/net/tun"):
        raise LabError("/dev/net/tun is not there: the lab's cards are taps; `modprobe tun` on a machine of your own")


def make_disks(now: State) -> None:
    """A fresh copy-on-write root for each machine and fresh, empty shared disks."""
    for machine in MACHINES.values():
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(now.image_of(machine).root)]
        subprocess.run([*command, str(_root_disk(machine))], check=True)
    with _shared_disks().open("wb") as file:
        # One MiB more for each, so that slices of whole MiB fit.
        file.truncate(now.disks * (topology.DISK_MIB + 1) << 20)
    forget_registrations()


def forget_registrations() -> None:
    """A fresh disk for what the enclosure remembers over a power loss. Only while it is off."""
    with _stored_registrations().open("wb") as file:
        file.truncate(STORED_MIB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(_stored_registrations())], check=True)


def power_on(machine: Machine, now: State, key: str) -> None:
    if process.alive(machine.name):
        raise LabError(f"{machine.name} is on already")
    folder = topology.running()
    command = network.inside(_qemu(machine, now.image_of(machine), _kernel_words(machine, now, key)))
    process.start(machine.name, command, log=folder / f"{machine.name}.qemu.log")
    events.record(machine)
    group = Path(f"/proc/{process.alive(machine.name)}/autogroup")
    if (niceness := os.environ.get("LAB_NICE")) and group.exists():
        # Of the session's group: between groups the kernel doesn't look at the niceness of a process.
        group.write_text(niceness)


def _kernel_words(machine: Machine, now: State, key: str) -> str:
    words = [KERNEL_WORDS, f"systemd.machine_id={machine.number:032x}"]
    # An emulator translates a program anew at each address that it is put at, which takes longer than its start.
    words += ["norandmaps"]
    # ZFS runs the worker that every fsync waits for at niceness 19: on one processor it starves beside systemd's reload.
    words += ["spl.spl_taskq_thread_priority=0"]
    words += [f"lab.name={machine.name}", f"lab.role={machine.role}", f"lab.number={machine.number}"]
    words += [f"lab.key={key.replace(' ', ':')}"]
    words += [f"lab.link.{link}={machine.mac(link)},{machine.address(link)}/24" for link in machine.links]
    portals = [ENCLOSURE.address(network) for network in SANS]
    names = {one: topology.storage_name(now.protocol, one.name) for one in MACHINES.values()}
    words += [f"lab.protocol={now.protocol}", f"lab.target={names[ENCLOSURE]}"]
    if machine is ENCLOSURE:
        words += [f"lab.disks={now.disks}", f"lab.initiators={','.join(names[one] for one in CONTROLLERS)}"]
        words += [f"lab.portals={','.join(portals)}"]
    else:
        words += [f"lab.initiator={names[machine]}", f"lab.portals={','.join(portals[:now.paths])}"]
    return " ".join(words)


def _qemu(machine: Machine, image: Image, words: str) -> list[str]:
    folder = topology.running()
    # Emulation everywhere alike; LAB_ACCEL=kvm for a computer on which that boots a stock kernel.
    accelerator = os.environ.get("LAB_ACCEL", "tcg")
    if accelerator == "tcg":
        # MiB for translated code. Where it is full, all is thrown away, and the machine is slow until it is there again.
        processor = ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "qemu64"]
    else:
        processor = ["-accel", accelerator, "-cpu", "host"]
    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "q35", *processor]
    command += ["-name", machine.name, "-smp", _processors(machine), "-m", str(machine.memory_mib)]
    command += ["-kernel", str(image.kernel), "-initrd", str(image.initramfs), "-append", words]
    command += ["-qmp", f"unix:{folder / machine.name}.qmp,server=on,wait=off"]
    command += ["-qmp", f"unix:{events.socket_path(machine)},server=on,wait=off"]
    serial = f"socket,id=serial,path={folder / machine.name}.serial,server=on,wait=off"
    command += ["-chardev", f"{serial},logfile={folder / machine.name}.console.log,logappend=on"]
    command += ["-serial", "chardev:serial", "-device", "virtio-rng-pci"]
    # A flush ends in this computer's memory, which outlives a machine that loses its power here. Waiting for this
    # computer's own disk would say nothing about the product, and stand in every time that is measured.
    command += ["-drive", f"file={_root_disk(machine)},format=qcow2,if=virtio,discard=unmap,cache=unsafe"]
    if machine.role == "enclosure":
        command += ["-drive", f"file={_shared_disks()},format=raw,if=virtio,cache=unsafe"]
        command += ["-drive", f"file={_stored_registrations()},format=raw,if=virtio,cache=unsafe"]
    else:
        # The panic device only tells us of it: the kernel resets the machine by itself a second later.
        command += ["-device", "i6300esb", "-device", "pvpanic-pci", "-action", "watchdog=reset,panic=none"]
    for link in machine.links:
        command += ["-netdev", f"tap,id=net-{link},ifname={machine.tap(link)},script=no,downscript=no"]
        # The card carries the network's name: faults speak of it.
        command += ["-device", f"virtio-net-pci,id={link},netdev=net-{link},mac={machine.mac(link)},romfile="]
    return command


def _root_disk(machine: Machine) -> Path:
    return topology.running() / f"{machine.name}.qcow2"


def _shared_disks() -> Path:
    return topology.running() / "shared.raw"


def _stored_registrations() -> Path:
    return topology.running() / "stored.raw"


def _processors(machine: Machine) -> str:
    # One is for the target's threads alone: see lab-enclosure.
    return "2" if machine.role == "enclosure" else "1"
