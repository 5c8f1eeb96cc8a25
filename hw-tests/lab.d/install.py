"""`lab install`: puts a built failoverd and midctl on both controllers, with one pool on the shared disks."""

import os
import shlex
from pathlib import Path

import remote
import session
import state
import topology
from topology import A, B, CONTROLLERS, LabError, Machine

CHECKOUT = topology.HERE.parents[1]
SYSTEMD = CHECKOUT / "systemd"
VIRTUAL_ADDRESS = "10.77.3.100"
MOUNTPOINT = "/srv/tank"
POOL_DISK = 0
# An emulated machine stands still for 0.1 s now and then, and does everything ten times slower: the product's
# own timers would call that a death. The relations between them are kept.
TIMING = {
    "beat_ms": 250, "dead_ms": 2000, "disk_read_ms": 250, "disk_silent_ms": 2400, "disk_beat_ms": 500,
    "roll_after_ms": 500, "vip_lease_ms": 1600, "lease_slack_ms": 200, "abort_ms": 4000, "disk_lost_ms": 8000,
    "verify_ms": 4000, "stall_ms": 800, "handover_ms": 20000, "disk_op_ms": 2000, "not_serving_ms": 30000,
}


def install(folder: str | None) -> None:
    """Installs from `folder`, or from where cargo put its debug build; starts the daemons on an empty filesystem."""
    binaries = Path(folder or Path(os.environ.get("CARGO_TARGET_DIR") or CHECKOUT / "target") / "debug")
    for name in ("failoverd", "midctl"):
        if not (binaries / name).is_file():
            raise LabError(f"{binaries / name} is not there: `cargo build -p failoverd -p midctl`, or give its folder")
    disks = state.load().disks
    for one in CONTROLLERS:
        remote.run(one, "systemctl stop failoverd", 90.0)
        remote.must(one, "umount -l /srv/tank 2>/dev/null; rm -rf /var/lib/failoverd; mkdir -p /srv/tank /etc/failoverd; chmod 750 /etc/failoverd")
        for name, place in (("failoverd", "/usr/sbin/failoverd"), ("midctl", "/usr/bin/midctl")):
            remote.send_file(one, (binaries / name).read_bytes(), place, "755")
        for unit in ("failoverd.service", "failover-active.target"):
            remote.send_file(one, (SYSTEMD / unit).read_bytes(), f"/etc/systemd/system/{unit}")
        # On a real machine the kernel has the shelf's disks before any service starts; here a login brings them.
        remote.must(one, "mkdir -p /etc/systemd/system/failoverd.service.d")
        remote.send_file(one, b"[Unit]\nAfter=lab-disks.service\n", "/etc/systemd/system/failoverd.service.d/lab.conf")
        remote.send_file(one, (SYSTEMD / "failoverd.sysusers").read_bytes(), "/usr/lib/sysusers.d/failoverd.conf")
        remote.send_file(one, configuration(one, disks).encode(), "/etc/failoverd/failoverd.toml", "600")
        remote.must(one, "systemd-sysusers && systemctl daemon-reload")
        for disk in range(disks):
            # No reservation of an earlier installation may be left; the check is that none is.
            path = session.disk_path(disk)
            remote.must(one, f"sg_turs -q {path}; sg_persist -n --out --register-ignore --param-sark=0x1 {path}"
                             f" && sg_persist -n --out --clear --param-rk=0x1 {path}")
    remote.must(A, "rm -f /etc/failoverd/pair.key && failoverd new-key /etc/failoverd/pair.key")
    key = remote.must(A, "base64 -w0 /etc/failoverd/pair.key")
    remote.must(B, f"umask 077; echo {shlex.quote(key)} | base64 -d >/etc/failoverd/pair.key")
    remote.must(A, f"mkfs.ext4 -q -F {session.disk_path(POOL_DISK)}", 120.0)
    for one in CONTROLLERS:
        print(remote.must(one, "failoverd --check /etc/failoverd/failoverd.toml"))
        remote.must(one, "systemctl reset-failed failoverd; systemctl enable --now failoverd", 60.0)


def configuration(machine: Machine, disks: int) -> str:
    peer = B if machine is A else A
    names = ", ".join(f'"{_identity(disk)}"' for disk in range(disks))
    lines = [f'node = "{machine.name.upper()}"', 'pair_key = "/etc/failoverd/pair.key"', f"disks = [{names}]",
             f"arbiters = {3 if disks >= 3 else 1}", 'critical_interfaces = ["lan"]', "[timing]"]
    lines += [f"{name} = {value}" for name, value in TIMING.items()]
    for link in ("hb0", "hb1"):
        lines += ["[[links]]", f'local = "{machine.address(link)}:7400"', f'peer = "{peer.address(link)}:7400"',
                  f'interface = "{link}"']
    lines += ["[[vips]]", 'interface = "lan"', f'address = "{VIRTUAL_ADDRESS}/24"']
    lines += ["[[pools]]", 'name = "tank"', f'device = "{session.disk_path(POOL_DISK)}"',
              f'mountpoint = "{MOUNTPOINT}"', 'fstype = "ext4"']
    return "\n".join(lines) + "\n"


def _identity(disk: int) -> str:
    return f"naa.{session.disk_identity(disk)}"
