"""A pool that the daemon mounted is there for the whole machine, not only for the daemon.

Expected: a unit of its own, one with mounts of its own, and a shell all see the pool and a file on it; so does process 1.
"""

import install
import pair
import remote
from check import Check

FIRST_MASTER_S_MAX = 120.0


def run(check: Check) -> None:
    master = pair.wait_for_master(FIRST_MASTER_S_MAX)
    place = install.mountpoint("tank")
    remote.must(master, f"echo seen >{place}/visible")
    look = f"cat {place}/visible"
    for name, command in (
        ("a shell", look),
        ("a unit of its own", f"systemd-run --quiet --wait --pipe {look}"),
        ("a unit with mounts of its own", f"systemd-run --quiet --wait --pipe -p PrivateTmp=yes -p ProtectSystem=strict {look}"),
        ("process 1", f"nsenter -t 1 -m {look}"),
    ):
        answer = remote.run(master, command, 60.0)
        check.that(f"{name} sees the pool on {master.name}", answer.out == "seen\n", (answer.out, answer.err))
    mounts = remote.must(master, f"grep -c ' {place} ' /proc/1/mountinfo /proc/$(systemctl show -P MainPID failoverd)/mountinfo")
    check.that("process 1 and the daemon have it mounted", all(line.endswith(":1") for line in mounts.split()), mounts)
    remote.must(master, f"rm {place}/visible")
