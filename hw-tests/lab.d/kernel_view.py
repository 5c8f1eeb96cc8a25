"""What a controller's own kernel shows of a virtual address while something happens: asked from inside, every few
milliseconds, by `lab-kernel-view` (src/kernel_view.rs)."""

import json
import subprocess

import install
import remote
from topology import LabError, Machine

PAUSE_MS = 5
END_S_MAX = 30.0
# Far fewer than asked for: a busy emulated machine stands still for a while.
SAMPLES_A_SECOND_MIN = 50


class KernelView:
    """From `with` to its end; `seen` has what was seen then: samples, longest_ms, absent, first_absent."""

    def __init__(self, machine: Machine, pool: str = "tank") -> None:
        self.machine, self.pool = machine, pool
        self.seen: dict = {}

    def __enter__(self) -> "KernelView":
        address = install.address_of(self.pool)
        # Real-time: between two looks nothing is known. A look costs the machine a part of a millisecond.
        self._process = remote.start(self.machine, f"chrt -f 1 lab-kernel-view --pause-ms {PAUSE_MS} {address}")
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            out, err = self._process.communicate(timeout=END_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
        if kind is not None:
            return
        try:
            self.seen = json.loads(out)
        except ValueError:
            raise LabError(f"{self.machine.name}: lab-kernel-view did not answer: {err.decode(errors='replace').strip()}") from None
