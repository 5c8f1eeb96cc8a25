"""The oracle's own test: two writers on one pool, without fencing. The trial passes only if the oracle says FAIL.

Both daemons are stopped, the reservations cleared by hand. A imports the pool and B imports it by force; a recorder on each
serves a client of its own. Then both machines lose their power, A imports what is left, and both clients' acknowledgements
are judged: of at least one, records must be gone, torn or doubled, or the pool must be beyond import. The pools are made
anew afterwards.
"""

import time

import faults
import install
import oracle
import recover
import remote
import session
import state
from check import Check
from topology import A, B, CONTROLLERS, LabError, Machine

WRITE_S = 30.0
IMPORT_S_MAX = 180.0
BOOT_S_MAX = 300.0


def run(check: Check) -> None:
    try:
        _two_writers(check)
    finally:
        # Whatever is on the disks now is worth nothing.
        for one in CONTROLLERS:
            if faults.power(one) == "off":
                faults.power_on(one)
            remote.wait_until_up(one, BOOT_S_MAX)
            session.wait_for_disks(one, state.load().disks)
        install.again()
        recover.healthy_pair()


def _two_writers(check: Check) -> None:
    install.free()
    clients = []
    for one in (A, B):
        _import(one)
        _start_recorder(one)
        clients.append(oracle.Client(f"double_{one.name}", address=one.address("lan")))
        clients[-1].wait_until_steady(60.0)
    time.sleep(WRITE_S)
    for client in clients:
        client.look()
        print(f"  {len(client.acks)} acknowledged")
        check.that("this writer was acknowledged", len(client.acks) > oracle.RATE_MIN, len(client.acks))
    for one in CONTROLLERS:
        faults.power_off(one)
    for client in clients:
        client.kill()
    for one in CONTROLLERS:
        faults.power_on(one)
    for one in CONTROLLERS:
        remote.wait_until_up(one, BOOT_S_MAX)
        session.wait_for_disks(one, state.load().disks)
        remote.run(one, "systemctl stop failoverd", 120.0)
    install.free()
    try:
        _import(A)
        verdicts = [client.judge(A) for client in clients]
    except LabError as error:
        check.that("the pool is beyond import: both writers' records are lost", True)
        print(f"  {error}")
        return
    for verdict in verdicts:
        print(f"  oracle: {oracle.describe(verdict)}")
    check.that("the oracle says FAIL", not all(verdict["pass"] for verdict in verdicts), verdicts)


def _import(machine: Machine) -> None:
    if install.layout().fs == "zfs":
        # What the kernel knows of partitions may be older than the pool; a takeover reads them again by itself.
        install.reread_partitions(machine)
        remote.must(machine, "zpool import -f -o cachefile=none -d /dev/disk/by-id tank", IMPORT_S_MAX)
    else:
        device = install.device("tank")
        remote.must(machine, f"mount {device} {install.mountpoint('tank')}", IMPORT_S_MAX)


def _start_recorder(machine: Machine) -> None:
    remote.must(machine, "systemctl start lab-recorder-tank.service", 60.0)
