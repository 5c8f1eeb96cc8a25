"""The client of the oracle in the lab's network, and the verdict over what it was told.

The recorder (`lab-recorder serve`) runs on the MASTER and listens at the virtual address; see `src/oracle/mod.rs`.
"""

import base64
import gzip
import json
import subprocess
import time
from dataclasses import dataclass

import install
import network
import remote
import topology
from topology import LabError, Machine

RATE = 50
# Below this, a service counts as not whole.
RATE_MIN = 20
STEADY_S = 3.0
ACKS_MIN = 500
END_S_MAX = 60.0
SCRUB_S_MAX = 300.0


@dataclass(frozen=True)
class Ack:
    """One acknowledged record; times of this computer's wall clock."""

    number: int
    sent_s: float
    acked_s: float
    times: int
    writer: str  # "a" or "b"


@dataclass(frozen=True)
class Gap:
    """A time without an acknowledgement."""

    begin_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.begin_s


class Client:
    """A client that runs until `stop`; it ends with this process whatever happens."""

    def __init__(self, name: str, pool: str = "tank", address: str | None = None, rate: int = RATE) -> None:
        self.pool = pool
        self.run = time.time_ns()
        self.notes = topology.running() / f"client-{name}-{pool}.notes"
        self.acks: list[Ack] = []
        self.events: list[tuple[float, str]] = []
        self.summary: dict = {}
        self._offset = 0
        self.notes.unlink(missing_ok=True)
        to = f"{address or install.address_of(pool)}:{install.port_of(pool)}"
        command = [str(install.program("lab-recorder")), "send", "--to", to, "--run", str(self.run)]
        command += ["--notes", str(self.notes), "--rate", str(rate)]
        self._process = subprocess.Popen(
            network.client(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def look(self) -> None:
        """Reads what the client has noted since the last look."""
        try:
            with self.notes.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode().splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "ack":
                number, sent, acked, times, writer = (int(word) for word in rest.split())
                self.acks.append(Ack(number, sent / 1e6, acked / 1e6, times, chr(writer >> 56)))
            elif kind == "event":
                at, _, what = rest.partition(" ")
                self.events.append((int(at) / 1e6, what))

    def rate(self, begin_s: float, end_s: float) -> float:
        """Acknowledgements a second between two times."""
        return sum(begin_s <= ack.acked_s < end_s for ack in self.acks) / max(end_s - begin_s, 0.001)

    def wait_until_steady(self, timeout_s: float) -> float:
        """Until `RATE_MIN` a second were acknowledged for `STEADY_S`. Answers the rate."""
        begun = time.time()
        while True:
            self.look()
            now = time.time()
            seconds = [self.rate(now - back - 1, now - back) for back in range(int(STEADY_S))]
            if now - begun >= STEADY_S and min(seconds) >= RATE_MIN:
                return sum(seconds) / len(seconds)
            if now - begun > timeout_s:
                raise LabError(f"the client gets {seconds} acknowledgements in the last seconds, not {RATE_MIN}, "
                               f"after {timeout_s:.0f} s; it noted {self.events[-3:]}")
            time.sleep(0.2)

    def wait_until_acknowledged(self, count: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while len(self.acks) < count:
            if time.monotonic() > deadline:
                raise LabError(f"{len(self.acks)} acknowledgements and not {count} after {timeout_s:.0f} s")
            time.sleep(0.2)
            self.look()

    def gap(self, begin_s: float, end_s: float) -> Gap:
        """The longest time without an acknowledgement, of those that touch the span; its ends may lie outside."""
        longest = Gap(begin_s, begin_s)
        before = None
        for ack in sorted(self.acks, key=lambda ack: ack.acked_s):
            if before is not None and ack.acked_s > begin_s and before < end_s:
                if ack.acked_s - before > longest.length_s:
                    longest = Gap(before, ack.acked_s)
            before = ack.acked_s
        if before is not None and before < end_s and end_s - before > longest.length_s:
            longest = Gap(before, end_s)
        return longest

    def stop(self) -> dict:
        """Ends the client once its open records are acknowledged. Answers its summary."""
        if not self.summary:
            try:
                out, _ = self._process.communicate(timeout=END_S_MAX)
                self.summary = json.loads(out)
            except (subprocess.TimeoutExpired, ValueError) as error:
                self._process.kill()
                self._process.wait()
                raise LabError(f"the client of {self.pool} did not end in order: {error}") from None
            finally:
                self.look()
        return self.summary

    def kill(self) -> None:
        """Ends the client at once; what it has noted stays."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self.look()

    def judge(self, machine: Machine) -> dict:
        """The verdict over the log as `machine`, which has the pool, reads it from the disks."""
        log = topology.running() / f"{self.pool}.log"
        log.write_bytes(fetch_log(machine, self.pool))
        command = [str(install.program("lab-recorder")), "judge", "--run", str(self.run)]
        done = subprocess.run([*command, "--log", str(log), "--notes", str(self.notes)], capture_output=True, check=False)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise LabError(f"no verdict over {self.notes}: {done.stderr.decode(errors='replace').strip()}") from None


def fetch_log(machine: Machine, pool: str) -> bytes:
    """The log's bytes, past what the machine may still have cached of it."""
    path = f"{install.mountpoint(pool)}/records.log"
    text = remote.must(machine, f"sync; echo 3 >/proc/sys/vm/drop_caches; gzip -1 <{path} | base64 -w0", 120.0)
    return gzip.decompress(base64.b64decode(text))


def scrub(machine: Machine, pool: str) -> str | None:
    """Reads every block of a ZFS pool and waits. Answers what is wrong with it, or nothing."""
    if install.layout().fs != "zfs":
        return None
    remote.must(machine, f"zpool scrub -w {pool}", SCRUB_S_MAX)
    status = remote.must(machine, f"zpool status -v {pool}", 60.0)
    clean = "errors: No known data errors" in status and "with 0 errors" in status
    return None if clean else status


def describe(verdict: dict) -> str:
    """The verdict in one line."""
    word = "PASS" if verdict["pass"] else "FAIL"
    kinds = [f"{kind} {verdict[kind]['count']}" + (f" ({verdict[kind]['first'][:5]})" if verdict[kind]["count"] else "")
             for kind in ("lost", "doubled", "torn", "reordered")]
    return f"{word}: {verdict['acknowledged']} acknowledged, {verdict['recorded']} recorded, {', '.join(kinds)}"

