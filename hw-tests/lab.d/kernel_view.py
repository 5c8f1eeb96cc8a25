"""What a controller's own kernel shows of a virtual address while something happens: asked from inside, every few
milliseconds. The program is guest/kernel_view.py."""

import json

import install
import remote
import topology
from topology import Machine

PROGRAM = "/run/lab-kernel-view.py"
OUT = "/run/lab-kernel-view.json"
PID = "/run/lab-kernel-view.pid"
# One look takes some 10 ms under emulation.
SAMPLES_A_SECOND_MIN = 5


class KernelView:
    """From `with` to its end; `seen` has what was seen then: samples, longest_ms, absent, first_absent."""

    def __init__(self, machine: Machine, pool: str = "tank") -> None:
        self.machine, self.pool = machine, pool
        self.seen: dict = {}

    def __enter__(self) -> "KernelView":
        source = (topology.HERE / "guest" / "kernel_view.py").read_bytes()
        remote.send_file(self.machine, source, PROGRAM)
        address = install.address_of(self.pool)
        remote.must(self.machine, f"rm -f {OUT}; setsid nice -n -5 python3 {PROGRAM} {address} {OUT} </dev/null >/dev/null "
                                  f"2>/run/lab-kernel-view.err & echo $! >{PID}; sleep 1; kill -0 $(cat {PID})")
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        wait = f"kill $(cat {PID}); for i in 1 2 3 4 5 6 7 8 9 10; do [ -s {OUT} ] && break; sleep 0.5; done; cat {OUT}"
        answer = remote.run(self.machine, wait)
        if kind is None:
            self.seen = json.loads(answer.out or '{"samples": 0, "absent": {"address": -1, "lease": -1}}')
