"""The enclosure's faults do what they say: disks that fail, are slow, hang or are pulled, paths, and its own power.

Each is looked at from a controller that it should reach and at a disk or a controller that it should not. Needs no daemon.
"""

import time

import faults
import remote
import scsi
import session
import state
from check import Check
from topology import A, B, CONTROLLERS, ENCLOSURE, SANS, Machine

KEY_A = "0xa000000000000003"
SLOW_MS = 700
STILL_S = 4.0
MENDED_S_MAX = 60.0
BOOT_S_MAX = 120.0


def run(check: Check) -> None:
    _disk_fails(check)
    _disk_slow(check)
    _disk_hangs(check)
    _disk_pulled(check)
    _paths(check)
    _storage_gone(check)
    for kept in (True, False):
        _power(check, kept)


def _disk_fails(check: Check) -> None:
    bad, sound = session.disk_path(0), session.disk_path(1)
    faults.disk_fail(0)
    check.that("disk-fail: neither controller reads it", not any(scsi.reads(one, bad) for one in CONTROLLERS))
    check.that("disk-fail: both read another one", all(scsi.reads(one, sound) for one in CONTROLLERS))
    check.that("disk-fail: its reservations are still read", scsi.persist(A, bad, "--in --read-keys").code == 0)
    faults.disk_heal(0)
    check.that("disk-heal: both read it", all(scsi.reads(one, bad) for one in CONTROLLERS))


def _disk_slow(check: Check) -> None:
    slow, quick = session.disk_path(0), session.disk_path(1)
    faults.disk_slow(0, SLOW_MS)
    took_ms = {path: min(_read_ms(A, path) for _ in range(3)) for path in (slow, quick)}
    check.that(f"disk-slow: a read takes {SLOW_MS} ms longer", took_ms[slow] - took_ms[quick] >= SLOW_MS * 0.9, took_ms)
    faults.disk_heal(0)
    healed_ms = min(_read_ms(A, slow) for _ in range(3))
    check.that("disk-heal: it is as quick as before", healed_ms < SLOW_MS, healed_ms)


def _disk_hangs(check: Check) -> None:
    path, other = session.disk_path(0), session.disk_path(1)
    faults.disk_hang(0)
    remote.must(A, f"rm -f /run/hung; ({scsi.reading(path)}; echo $? >/run/hung) >/dev/null 2>&1 </dev/null &")
    time.sleep(STILL_S)
    check.that("disk-hang: a read has no answer", remote.run(A, "cat /run/hung").code != 0)
    check.that("disk-hang: another disk answers", scsi.reads(A, other) and scsi.reads(B, other))
    faults.disk_heal(0)
    check.that("disk-heal: the read ends well", _until(lambda: remote.run(A, "cat /run/hung").out == "0\n", MENDED_S_MAX))


def _disk_pulled(check: Check) -> None:
    path = session.disk_path(0)
    faults.disk_pull(A, 0)
    check.that("disk-pull: a has no such disk, b has", _until(lambda: not _has(A, path), MENDED_S_MAX) and _has(B, path))
    check.that("disk-pull: a has every other one", all(_has(A, session.disk_path(disk)) for disk in range(1, state.load().disks)))
    faults.disk_insert(A, 0)
    session.wait_for_disks(A, state.load().disks)
    check.that("disk-insert: a reads it again", scsi.reads(A, path))


def _paths(check: Check) -> None:
    """Each link carries its own path, and no other."""
    paths = state.load().paths
    for lost in range(paths):
        faults.link_down(A, SANS[lost])
        answers = [_reads_by(A, portal) for portal in range(paths)]
        check.that(f"{SANS[lost]} down: exactly its path is gone", answers == [portal != lost for portal in range(paths)], answers)
        faults.link_up(A, SANS[lost])
        check.that(f"{SANS[lost]} up: it is back", _until(lambda: _reads_by(A, lost), MENDED_S_MAX))


def _storage_gone(check: Check) -> None:
    path = session.disk_path(0)
    faults.storage_down(A)
    check.that("storage-down: a can't read, b can", not scsi.reads(A, path) and scsi.reads(B, path))
    faults.storage_up(A)
    check.that("storage-up: a reads again", _until(lambda: scsi.reads(A, path), MENDED_S_MAX))


def _power(check: Check, kept: bool) -> None:
    """A restart of the enclosure, that has kept or lost what it had stored of the reservations."""
    disks = range(state.load().disks)
    how = "kept" if kept else "forgotten"
    for disk in disks:
        path = session.disk_path(disk)
        for one in CONTROLLERS:
            scsi.clear(one, path)
        scsi.must(A, path, f"--out --register --param-aptpl --param-sark={KEY_A}")
        scsi.must(A, path, f"--out --reserve --param-rk={KEY_A} --prout-type={scsi.WRITE_EXCLUSIVE_REGISTRANTS_ONLY}")
    for one in CONTROLLERS:
        # A disk that was open for writing is looked at once more by udev; without an answer its names would go.
        remote.must(one, "udevadm settle", MENDED_S_MAX)
    began = time.monotonic()
    faults.power_off(ENCLOSURE)
    if not kept:
        faults.forget(ENCLOSURE)
    faults.power_on(ENCLOSURE)
    remote.wait_until_up(ENCLOSURE, BOOT_S_MAX)
    for one in CONTROLLERS:
        back = _until(lambda: all(scsi.reads(one, session.disk_path(disk)) for disk in disks), MENDED_S_MAX)
        check.that(f"enclosure restarted, {how}: {one.name} reads every disk again", back)
    print(f"  both controllers read every disk {time.monotonic() - began:.1f} s after the enclosure's power off")
    wanted = {KEY_A} if kept else set()
    keys = [scsi.keys(B, session.disk_path(disk)) for disk in disks]
    check.that(f"enclosure restarted, {how}: the keys are {'there' if kept else 'gone'}", keys == [wanted] * len(keys), keys)
    path = session.disk_path(0)
    check.that(f"enclosure restarted, {how}: a may write", scsi.write(A, path, "a after the restart"))
    check.that(f"enclosure restarted, {how}: b may {'not ' if kept else ''}write", scsi.write(B, path, "b") != kept)


def _reads_by(machine: Machine, portal: int) -> bool:
    """Whether the first shared disk can be read by the path over this portal."""
    find = f"""
for session in /sys/class/iscsi_session/session*; do
    grep -q '^{ENCLOSURE.address(SANS[portal])}$' "$session"/device/connection*/iscsi_connection/*/persistent_address || continue
    for block in "$session"/device/target*/*:0/block/*; do echo "/dev/${{block##*/}}"; done
done"""
    device = remote.must(machine, find).strip()
    return scsi.reads(machine, device)


def _has(machine: Machine, path: str) -> bool:
    return remote.run(machine, f"test -b {path}").code == 0


def _read_ms(machine: Machine, path: str) -> float:
    clock = "cut -d ' ' -f 1 /proc/uptime"
    before, after = remote.must(machine, f"{clock}; {scsi.reading(path)} status=none >/dev/null; {clock}").split()
    return (float(after) - float(before)) * 1e3


def _until(holds, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
