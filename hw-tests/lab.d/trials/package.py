"""The package's way through a controller's life: install, upgrade under load, remove, purge.

Two packages are built from this checkout, of two revisions (systemd/deb.sh, cargo's debug build), or taken from the folder
LAB_PACKAGES. Expected: installing starts nothing without a configuration; the installed unit, group, catalogue and presets
work; an upgrade of the MASTER is no transition and no client waits; removing on the MASTER hands over first; after a purge
nothing of the package is left.
"""

import os
import shutil
import subprocess
from pathlib import Path

import install
import pair
import remote
import scenario
import topology
from check import Check, Skip
from topology import CONTROLLERS, LabError, Machine
from trials import restart

BUILD_S_MAX = 1800.0
DPKG_S_MAX = 300.0
HANDOVER_S_MAX = 240.0
PUT = "/etc/systemd/system/failoverd.service /etc/systemd/system/failover-active.target /usr/sbin/failoverd " \
      "/usr/bin/midctl /usr/lib/sysusers.d/failoverd.conf"
KEPT = "/etc/failoverd /var/lib/failoverd"


def run(check: Check) -> None:
    first, second = (_build(revision) for revision in ("1", "2"))
    pair.wait_for_master(120.0)
    try:
        for one in CONTROLLERS:
            _install(check, one, first)
        for one in CONTROLLERS:
            remote.must(one, "systemctl enable --now failoverd", install.START_S_MAX)
        with scenario.Scene(check, "package") as scene:
            _works(check, scene.master)
            quiet_s = restart.quiet(scene)
            for one in (scene.standby, scene.master):
                _send(one, second)
            _apt(scene.standby)
            pair.wait_for_master(HANDOVER_S_MAX)
            restart.unmoved(check, scene, f"the upgrade of {scene.master.name}", quiet_s, lambda: _apt(scene.master))
            for one in CONTROLLERS:
                version = remote.must(one, "dpkg-query -W -f '${Version}' failoverd")
                check.that(f"{one.name} has the second revision", version.endswith("-2"), version)
            check.figures.append(scene.gap_figure())
        _leave(check)
    except LabError as error:
        # Before what comes of it when the lab's own installation is put back.
        check.that("runs to its end", False, str(error))
    finally:
        # What follows needs the lab's own installation.
        install.stop()


def _build(revision: str) -> bytes:
    if folder := os.environ.get("LAB_PACKAGES"):
        return (Path(folder) / f"failoverd-{revision}.deb").read_bytes()
    if shutil.which("cargo-deb") is None:
        raise Skip("no cargo-deb on this computer: `cargo install cargo-deb`")
    out = topology.running() / f"failoverd-{revision}.deb"
    command = ["sh", str(install.SYSTEMD / "deb.sh"), "--deb-revision", revision, "-o", str(out)]
    done = subprocess.run(command, env={**os.environ, "DEB_PROFILE": "dev"}, capture_output=True, timeout=BUILD_S_MAX, check=False)
    if done.returncode != 0:
        raise LabError(f"the package can't be built: {done.stderr.decode(errors='replace')[-500:]}")
    return out.read_bytes()


def _send(machine: Machine, package: bytes) -> None:
    remote.send_file(machine, package, "/run/failoverd.deb")


def _apt(machine: Machine) -> str:
    return remote.must(machine, "DEBIAN_FRONTEND=noninteractive apt-get install -y --allow-downgrades "
                                "/run/failoverd.deb 2>&1", DPKG_S_MAX)


def _install(check: Check, machine: Machine, package: bytes) -> None:
    """On a machine as if nothing had ever been there."""
    remote.run(machine, "systemctl disable --now failoverd", HANDOVER_S_MAX)
    remote.must(machine, f"rm -rf {PUT} /run/lab-kept; mkdir -p /run/lab-kept; mv /etc/failoverd/* /run/lab-kept; "
                         "rm -rf /etc/failoverd; systemctl daemon-reload")
    _send(machine, package)
    _apt(machine)
    running = remote.run(machine, "systemctl is-active failoverd").out.strip()
    check.that(f"{machine.name}: nothing runs without a configuration", running == "inactive", running)
    failed = remote.run(machine, "systemctl is-failed failoverd").out.strip()
    check.that(f"{machine.name}: and nothing failed", failed != "failed", failed)
    enabled = remote.run(machine, "systemctl is-enabled failoverd").out.strip()
    check.that(f"{machine.name}: the unit is enabled", enabled == "enabled", enabled)
    group = remote.run(machine, "getent group failoverd").code
    check.that(f"{machine.name}: the group is there", group == 0, group)
    mode = remote.must(machine, "stat -c '%a %U' /etc/failoverd").strip()
    check.that(f"{machine.name}: its folder is root's alone", mode == "750 root", mode)
    presets = remote.run(machine, "systemctl preset zfs-import-cache.service 2>&1; systemctl is-enabled zfs-import-cache.service").out
    check.that(f"{machine.name}: ZFS's import stays off", "enabled" not in presets.splitlines()[-1:], presets)
    remote.must(machine, "mv /run/lab-kept/* /etc/failoverd; systemctl reset-failed failoverd 2>/dev/null; true")


def _works(check: Check, machine: Machine) -> None:
    path = remote.must(machine, "systemctl show -P FragmentPath failoverd").strip()
    check.that(f"{machine.name} runs the package's unit", path == "/usr/lib/systemd/system/failoverd.service", path)
    kind = remote.must(machine, "systemctl show -P Type failoverd").strip()
    check.that(f"{machine.name}: reloading waits for the daemon's word", kind == "notify-reload", kind)
    status = remote.must(machine, "systemctl show -P StatusText failoverd").strip()
    check.that(f"{machine.name}: systemd shows the public state", status.startswith("MASTER"), status)
    text = remote.must(machine, "journalctl --update-catalog; journalctl -x -u failoverd --no-pager -n 200", 60.0)
    check.that(f"{machine.name}: journalctl -x shows the catalogue's text", "Subject: The state has changed" in text,
               text.splitlines()[-5:])
    remote.must(machine, "systemctl reload failoverd", 60.0)
    check.that(f"{machine.name} serves on after a reload", pair.public_state(machine) == "MASTER", pair.public_state(machine))


def _leave(check: Check) -> None:
    """Off the MASTER first, which hands over, then off the other one, which exports."""
    master = pair.wait_for_master(HANDOVER_S_MAX)
    heir = pair.other(master)
    remote.must(master, "DEBIAN_FRONTEND=noninteractive dpkg --remove failoverd 2>&1", HANDOVER_S_MAX)
    pair.wait_for(heir, "MASTER", HANDOVER_S_MAX)
    check.that(f"{heir.name} serves after the removal on {master.name}", not pair.has_pool(master) and pair.has_pool(heir))
    kept = remote.run(master, f"ls -d {KEPT}").out.split()
    check.that(f"{master.name}: a removal keeps configuration and journal", len(kept) == 2, kept)
    _purge(check, master)
    remote.must(heir, "DEBIAN_FRONTEND=noninteractive dpkg --remove failoverd 2>&1", HANDOVER_S_MAX)
    check.that(f"{heir.name} exported its pool", not pair.has_pool(heir))
    _purge(check, heir)


def _purge(check: Check, machine: Machine) -> None:
    remote.must(machine, "DEBIAN_FRONTEND=noninteractive dpkg --purge failoverd 2>&1", DPKG_S_MAX)
    # The group stays: policy has system groups outlive a package (files may belong to it). The lab's own drop-in, what it
    # put away, its enabled service and its target's name are the lab's.
    left = remote.run(machine, "find / -xdev \\( -name '*failover*' -o -name midctl \\) -not -path '/usr/lib/modules/*' -not -path "
                               "'/run/*' -not -path '/srv/*' -not -path '*/failoverd.service.d*' -not -path "
                               "'/var/log/*' -not -path '/var/lib/iscsi/*' -not -path '*/failover-active.target.wants*' "
                               "2>/dev/null", 120.0).out.split()
    check.that(f"{machine.name}: a purge leaves nothing", not left, left)
    units = remote.run(machine, "systemctl list-unit-files --no-legend 'failover*'").out.strip()
    check.that(f"{machine.name}: and no unit", not units, units)
