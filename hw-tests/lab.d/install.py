"""`lab install`: puts a built failoverd and midctl on both controllers, with pools on the shared disks.

    layout            pools                                                          default
    fs                zfs: raidz2 over all disks, 11 filesystems; ext4: on one disk  zfs
    two_pools         `tank` and `dozer` on a half of the disks each, a virtual address each
    multihost         ZFS's own guard against two importers is on
    encrypted         a filesystem with a key of its own that comes from a file
"""

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import remote
import session
import state
import topology
from topology import A, B, CONTROLLERS, LabError, Machine

CHECKOUT = topology.HERE.parents[1]
SYSTEMD = CHECKOUT / "systemd"
PROGRAMS = {"failoverd": "/usr/sbin/failoverd", "midctl": "/usr/bin/midctl"}
PROGRAMS |= {name: f"/usr/local/sbin/{name}" for name in ("lab-recorder", "lab-kernel-view")}
# Not installed with the others: a trial puts it where it needs it.
CONFORMANCE = "lab-reservations"
POOLS = ("tank", "dozer")
VIRTUAL_ADDRESS = "10.77.3.100"
RECORDER_PORT = 7500
FILESYSTEMS = 11
# An emulated machine does everything about ten times slower and stands still for 0.1 s now and then: the product's own
# timers would call that a death. The relations between them are kept.
LAB_FACTOR = 8
# Not a timer of a failover but the memory of self-resets; a trial that makes a controller reset itself follows another.
RESET_HOLD_MIN = 1
WATCHDOG_S = 10
MAKE_POOL_S_MAX = 400.0
START_S_MAX = 120.0


@dataclass(frozen=True)
class Layout:
    """What is installed, beside the programs."""

    fs: str = "zfs"
    two_pools: bool = False
    multihost: bool = False
    encrypted: bool = False
    profile: str = "lab"

    @property
    def pools(self) -> tuple[str, ...]:
        return POOLS if self.two_pools else POOLS[:1]


def layout() -> Layout:
    """What the running lab has installed."""
    return Layout(**_remembered()["layout"])


def program(name: str) -> Path:
    """One of the built programs that are installed."""
    return Path(_remembered()["folder"]) / name


def timing() -> dict[str, int]:
    """The timers that are configured, milliseconds unless the name says else."""
    return _remembered()["timing"]


def mountpoint(pool: str) -> str:
    return f"/srv/{pool}"


def address_of(pool: str) -> str:
    """The pool's virtual address."""
    first, _, last = VIRTUAL_ADDRESS.rpartition(".")
    return f"{first}.{int(last) + POOLS.index(pool)}"


def port_of(pool: str) -> int:
    return RECORDER_PORT + POOLS.index(pool)


def disks_of(pool: str, wanted: Layout, disks: int) -> list[int]:
    """The numbers of the shared disks that the pool lies on."""
    if wanted.fs == "ext4":
        return [POOLS.index(pool)]
    if not wanted.two_pools:
        return list(range(disks))
    half = disks // 2
    return list(range(half)) if pool == POOLS[0] else list(range(half, disks))


def folder_of(folder: str | None) -> Path:
    """Where the programs are: in `folder`, else where cargo put its debug build."""
    return Path(folder or Path(os.environ.get("CARGO_TARGET_DIR") or CHECKOUT / "target") / "debug").resolve()


def install(folder: str | None, wanted: Layout = Layout(), show: bool = False) -> None:
    """Installs from `folder`, or from where cargo put its debug build; makes the pools anew and starts the daemons.
    With `show`, prints what each makes of its configuration."""
    binaries = folder_of(folder)
    for name in PROGRAMS:
        if not (binaries / name).is_file():
            raise LabError(f"{binaries / name} is not there: `cargo build -p failoverd -p midctl -p hw-tests`, or give its folder")
    _path().unlink(missing_ok=True)
    disks = state.load().disks
    for one in CONTROLLERS:
        _stop(one)
        _put_programs(one, binaries, wanted)
    # No reservation of an earlier installation may be left; that the second one can do it too is the check.
    free_from(*CONTROLLERS)
    remote.must(A, "rm -f /etc/failoverd/pair.key && failoverd new-key /etc/failoverd/pair.key")
    give_key(B, remote.must(A, "base64 -w0 /etc/failoverd/pair.key"))
    guids = {pool: _make_pool(pool, wanted, disks) for pool in wanted.pools}
    remember(binaries, wanted, guids)
    for one in CONTROLLERS:
        # The other one made the partition tables after this one had read them.
        reread_partitions(one)
        write_configuration(one)
        explained = remote.must(one, "failoverd --check /etc/failoverd/failoverd.toml")
        if show:
            print(explained)
    for one in CONTROLLERS:
        # A trial may take the power before the kernel would have written what was just installed.
        remote.must(one, "sync; systemctl reset-failed failoverd; systemctl enable --now failoverd", START_S_MAX)


def remembered() -> tuple[Layout, str] | None:
    """What is installed and from which folder; nothing where nothing is."""
    try:
        known = _remembered()
    except LabError:
        return None
    return Layout(**known["layout"]), known["folder"]


def remember(binaries: Path, wanted: Layout, guids: dict[str, str]) -> None:
    """What is installed, for the commands to come."""
    known = {"folder": str(binaries), "layout": asdict(wanted), "guids": guids, "timing": timing_of(wanted.profile, binaries)}
    _path().write_text(json.dumps(known))


def stop() -> None:
    """Stops the daemons, if something is installed; the next trial that needs it installs anew."""
    if _path().exists():
        free()
        for one in CONTROLLERS:
            remote.run(one, "systemctl disable failoverd")
        _path().unlink()


def free() -> None:
    """Stops the daemons and clears every reservation: nothing keeps either controller from writing."""
    for one in CONTROLLERS:
        remote.run(one, "systemctl stop failoverd", 180.0)
    free_from(*CONTROLLERS)


def device(pool: str) -> str:
    """The block device of an ext4 pool."""
    return session.disk_path(disks_of(pool, layout(), state.load().disks)[0])


def reread_partitions(machine: Machine) -> None:
    """Has the kernel read every shared disk's partition table, and waits for their names."""
    disks = _paths(range(state.load().disks))
    remote.must(machine, f"for disk in {disks}; do blockdev --rereadpt $disk; done; udevadm settle", 120.0)


def again() -> None:
    """The same once more, on new pools."""
    known = _remembered()
    install(known["folder"], Layout(**known["layout"]))


def give_key(machine: Machine, key: str) -> None:
    """Writes the pair's key, as `base64 -w0` printed it."""
    remote.must(machine, f"umask 077; echo {shlex.quote(key)} | base64 -d >/etc/failoverd/pair.key")


def write_configuration(machine: Machine, node: str | None = None) -> None:
    """Writes failoverd.toml; `node` names another place in the pair than the machine's own."""
    known = _remembered()
    text = configuration(machine, Layout(**known["layout"]), state.load().disks, known["guids"], known["timing"], node)
    remote.send_file(machine, text.encode(), "/etc/failoverd/failoverd.toml", "600")


def timing_of(profile: str, binaries: Path) -> dict[str, int]:
    """Every timer of the profile: the product's own, as it prints them, times `LAB_FACTOR` in the profile `lab`."""
    command = [str(binaries / "failoverd"), "--print-default-config"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    section = text.partition("\n[timing]\n")[2].partition("\n[")[0]
    timers = {name: int(value) for name, value in re.findall(r"^#?(\w+_(?:ms|min|s)) = (\d+)$", section, re.MULTILINE)}
    if "dead_ms" not in timers:
        raise LabError(f"{command[0]} prints no timers: has the form of its default configuration changed?")
    if profile == "lab":
        timers = {name: value * LAB_FACTOR for name, value in timers.items()}
        timers["reset_hold_min"] = RESET_HOLD_MIN
    return timers


def configuration(machine: Machine, wanted: Layout, disks: int, guids: dict[str, str], timing: dict[str, int],
                  node: str | None = None) -> str:
    peer = B if machine.name == A.name else A
    names = ", ".join(_identity(disk) for disk in range(disks))
    lines = [f'node = "{node or machine.name.upper()}"', 'pair_key = "/etc/failoverd/pair.key"', f"disks = [{names}]",
             f"arbiters = {3 if disks >= 3 else 1}", 'critical_interfaces = ["lan"]', "[timing]"]
    lines += [f"{name} = {value}" for name, value in timing.items()]
    lines += ["[services]", 'target = "failover-active.target"']
    factor = LAB_FACTOR if wanted.profile == "lab" else 1
    lines += ["[watchdog]", 'device = "/dev/watchdog0"', f"timeout_s = {WATCHDOG_S * factor}"]
    for link in ("hb0", "hb1"):
        lines += ["[[links]]", f'local = "{machine.address(link)}:7400"', f'peer = "{peer.address(link)}:7400"',
                  f'interface = "{link}"']
    for pool in wanted.pools:
        lines += ["[[vips]]", 'interface = "lan"', f'address = "{address_of(pool)}/24"']
        lines += [f'pool = "{pool}"'] if wanted.two_pools else []
    for pool in wanted.pools:
        lines += ["[[pools]]", f'name = "{pool}"']
        on = disks_of(pool, wanted, disks)
        if wanted.fs == "ext4":
            lines += [f'device = "{session.disk_path(on[0])}"', f'mountpoint = "{mountpoint(pool)}"', 'fstype = "ext4"']
        else:
            lines += ['kind = "zfs"', f'guid = "{guids[pool]}"']
        lines += [f"disks = [{', '.join(_identity(disk) for disk in on)}]"]
        lines += [f'units = ["lab-recorder-{pool}.service"]'] if wanted.two_pools else []
    return "\n".join(lines) + "\n"


def recorder_unit(pool: str, wanted: Layout) -> str:
    """The recorder as a service of the MASTER; with two pools it belongs to its own."""
    serve = f"/usr/local/sbin/lab-recorder serve --node %l --log {mountpoint(pool)}/records.log --listen 0.0.0.0:{port_of(pool)}"
    lines = ["[Unit]", f"Description=Recorder of the lab on {pool}", "PartOf=failover-active.target",
             # Never on the machine's own disk.
             f"AssertPathIsMountPoint={mountpoint(pool)}",
             "[Service]", "Type=notify", f"ExecStart={serve}", "TimeoutStartSec=60", "TimeoutStopSec=20", "[Install]"]
    lines += [] if wanted.two_pools else ["WantedBy=failover-active.target"]
    return "\n".join(lines) + "\n"


def _stop(machine: Machine) -> None:
    remote.run(machine, "systemctl stop failoverd", 180.0)
    remote.run(machine, "systemctl stop failover-active.target 'lab-recorder-*'", 60.0)
    for pool in POOLS:
        remote.run(machine, f"zpool list {pool} && zpool export -f {pool}; umount -l {mountpoint(pool)}", 120.0)
    remote.must(machine, "rm -rf /var/lib/failoverd /etc/systemd/system/lab-recorder-*; mkdir -p /etc/failoverd "
                         "/etc/systemd/system/failoverd.service.d /var/log/journal; chmod 750 /etc/failoverd")


def _put_programs(machine: Machine, binaries: Path, wanted: Layout) -> None:
    for name, place in PROGRAMS.items():
        put_program(machine, binaries / name, place)
    for unit in ("failoverd.service", "failover-active.target"):
        remote.send_file(machine, (SYSTEMD / unit).read_bytes(), f"/etc/systemd/system/{unit}")
    # On a real machine the kernel has the shelf's disks before any service starts; here a login brings them. The
    # lab's timers are longer, so that a handover may take longer too.
    lines = ["[Unit]", "After=lab-disks.service", "[Service]"]
    unit = (SYSTEMD / "failoverd.service").read_text()
    for name, value in re.findall(r"^(TimeoutStopSec|TimeoutStartSec|WatchdogSec)=(\d+)$", unit, re.MULTILINE):
        lines += [f"{name}={int(value) * LAB_FACTOR}"]
    text = "\n".join(lines) + "\n"
    remote.send_file(machine, text.encode(), "/etc/systemd/system/failoverd.service.d/lab.conf")
    remote.send_file(machine, (SYSTEMD / "failoverd.sysusers").read_bytes(), "/usr/lib/sysusers.d/failoverd.conf")
    for pool in wanted.pools:
        remote.must(machine, f"mkdir -p {mountpoint(pool)}")
        remote.send_file(machine, recorder_unit(pool, wanted).encode(), f"/etc/systemd/system/lab-recorder-{pool}.service")
    # What a daemon said before it reset its machine is wanted afterwards.
    remote.must(machine, "journalctl --flush; systemd-sysusers && systemctl daemon-reload")
    if not wanted.two_pools:
        remote.must(machine, "systemctl enable lab-recorder-tank.service")


def put_program(machine: Machine, program: Path, place: str) -> None:
    remote.must(machine, f"gunzip >{place}.new && chmod 755 {place}.new && mv {place}.new {place}", 120.0, _packed(program))


def _packed(program: Path) -> bytes:
    """The program without its debug information, compressed: an emulated machine takes some megabytes a second."""
    with tempfile.NamedTemporaryFile() as small:
        if shutil.which("strip") and subprocess.run(["strip", "-o", small.name, str(program)], check=False).returncode == 0:
            program = Path(small.name)
        return gzip.compress(program.read_bytes(), 1)


def free_from(*machines: Machine) -> None:
    """Clears every reservation on the shared disks by hand, from each of these machines; daemons must be stopped."""
    # The first commands after somebody else's change answer only that there was one (unit attentions): asked again.
    ask = "ask() { for try in 1 2 3; do sg_persist -n --out $1 $disk && return; done; return 1; }; "
    one = "ask '--register-ignore --param-sark=0x1' && ask '--clear --param-rk=0x1' || exit 1"
    disks = range(state.load().disks)
    for machine in machines:
        remote.must(machine, f"{ask}for disk in {_paths(disks)}; do {one}; done >/dev/null 2>&1", 180.0)


def _make_pool(pool: str, wanted: Layout, disks: int) -> str:
    """Makes the pool on A and leaves it exported. Answers its GUID; empty for ext4."""
    paths = [session.disk_path(disk) for disk in disks_of(pool, wanted, disks)]
    if wanted.fs == "ext4":
        remote.must(A, f"wipefs -qa {paths[0]}; mkfs.ext4 -q -F {paths[0]}", MAKE_POOL_S_MAX)
        return ""
    # Groups of eight: the width that the times of one group can be compared with.
    groups = [paths[at:at + 8] for at in range(0, len(paths), 8)]
    vdevs = " ".join(f"raidz2 {' '.join(group)}" for group in groups)
    options = f"-o cachefile=none -o multihost={'on' if wanted.multihost else 'off'} -O mountpoint={mountpoint(pool)}"
    commands = [f"zpool create -f {options} {pool} {vdevs}"]
    commands += [f"zfs create {pool}/fs{number}" for number in range(FILESYSTEMS - 1 - wanted.encrypted)]
    if wanted.encrypted:
        commands = ["umask 077; mkdir -p /etc/failoverd/zfs; head -c 32 /dev/urandom >/etc/failoverd/zfs/key", *commands]
        commands += [f"zfs create -o encryption=on -o keyformat=raw -o keylocation=file:///etc/failoverd/zfs/key {pool}/secret"]
    commands += [f"zpool get -H -o value guid {pool}", f"zpool export {pool}"]
    printed = remote.must(A, " && ".join(commands), MAKE_POOL_S_MAX).split()
    if wanted.encrypted:
        key = remote.must(A, "base64 -w0 /etc/failoverd/zfs/key")
        remote.must(B, f"umask 077; mkdir -p /etc/failoverd/zfs; echo {key} | base64 -d >/etc/failoverd/zfs/key")
    return printed[-1]


def _paths(disks: range) -> str:
    return " ".join(session.disk_path(disk) for disk in disks)


def _identity(disk: int) -> str:
    return f'"naa.{session.disk_identity(disk)}"'


def _remembered() -> dict:
    try:
        return json.loads(_path().read_text())
    except FileNotFoundError:
        raise LabError("nothing is installed: run `lab install`") from None


def _path() -> Path:
    return topology.running() / "install.json"
