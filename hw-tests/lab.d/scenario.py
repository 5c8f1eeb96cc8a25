"""A scenario: a healthy pair with a client on it, faults, and what has to come of them; ends with a healthy pair again.

    with Scene(check, "power_cut") as scene:
        scene.mark("the MASTER loses its power")
        faults.power_off(scene.master)
        scene.taken_over(scene.standby)
        ...

The scene brings what all have in common: the client is steady before and after, every acknowledged record is there exactly
once, a scrub finds nothing, and a report is left with what both controllers and the client saw.
"""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import faults
import install
import oracle
import pair
import recover
import remote
import report
from check import Check
from topology import CONTROLLERS, LabError, Machine

STEADY_S_MAX = 60.0
TAKEOVER_S_MAX = 180.0
HANDOVER_S_MAX = 180.0
BOOT_S_MAX = 300.0
ACKS_S_MAX = 120.0
# A clock that was off by more than this in one boot has stood still or was set.
CLOCK_S_MAX = 0.5


@dataclass
class Event:
    """One fault and what the client saw of it."""

    label: str
    at_s: float
    gaps: dict[str, oracle.Gap] = field(default_factory=dict)  # by pool


class Scene:
    """See above. `master` and `standby` are who they are now; trials that change that call `taken_over`."""

    def __init__(self, check: Check, name: str) -> None:
        self.check = check
        self.name = name
        self.events: list[Event] = []
        self.notes: list[tuple[float, str]] = []
        self.clients: dict[str, oracle.Client] = {}
        self.verdicts: dict[str, str] = {}
        self.pools = install.layout().pools
        # Pools that stay away at the end, because the trial took them.
        self.without: set[str] = set()
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> "Scene":
        self.began_s = time.time()
        self.master = recover.healthy_pair()
        self.standby = pair.other(self.master)
        self.clocks = {one.name: [pair.clock(one)] for one in CONTROLLERS}
        self.sequence = {one.name: _last_sequence(one) for one in CONTROLLERS}
        self.boots = {one.name: pair.boot_id(one) for one in CONTROLLERS}
        self.ready_s = time.time()
        self.clients = {pool: oracle.Client(self.name, pool) for pool in self.pools}
        for pool, client in self.clients.items():
            rate = client.wait_until_steady(STEADY_S_MAX)
            self.check.that(f"{pool}: at least {oracle.RATE_MIN} records a second before", rate >= oracle.RATE_MIN, rate)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        if kind is not None and not issubclass(kind, LabError):
            for client in self.clients.values():
                client.kill()
            return False
        if error is not None:
            self.check.that("runs to its end", False, str(error))
        for step in (self._heal, self._finish_clients, self._judge):
            try:
                step()
            except LabError as trouble:
                self.check.that(f"{step.__name__.strip('_').replace('_', ' ')}", False, str(trouble))
        for client in self.clients.values():
            client.kill()
        for one in CONTROLLERS:
            self.clocks[one.name].append(pair.clock(one))
        report.write(self)
        return True

    def undo(self, act: Callable[[], object]) -> None:
        """Ends a fault, at the latest when the scene ends."""
        self._undo.append(act)

    def mark(self, label: str) -> float:
        """A fault begins now. Answers the time."""
        now = time.time()
        self.events.append(Event(label, now))
        print(f"  {label}")
        return now

    def note(self, label: str) -> None:
        """Something worth a line in the report that is no new fault."""
        self.notes.append((time.time(), label))
        print(f"  {label}")

    def steady(self, note: str = "after", timeout_s: float = STEADY_S_MAX) -> None:
        """Every client gets its records acknowledged again; the gaps of the last event are kept."""
        for pool, client in self.clients.items():
            if pool in self.without:
                continue
            rate = client.wait_until_steady(timeout_s)
            self.check.that(f"{pool}: at least {oracle.RATE_MIN} records a second {note}", rate >= oracle.RATE_MIN, rate)
            if self.events:
                last = self.events[-1]
                last.gaps[pool] = client.gap(last.at_s, time.time())
                print(f"  {pool}: longest gap {last.gaps[pool].length_s:.2f} s")

    def hand_over(self, what: str = "handover", timeout_s: float = HANDOVER_S_MAX) -> None:
        """The MASTER is asked to become passive; the other one becomes MASTER and the old one BACKUP, without a reset."""
        old, heir = self.master, self.standby
        self.mark(f"{what}: {old.name} is asked to become passive")
        ask_to_hand_over(old, timeout_s)
        self.taken_over(heir, timeout_s)
        pair.wait_for(old, "BACKUP", timeout_s)
        self.check.that(f"{old.name} has not reset itself", pair.boot_id(old) == self.boots[old.name])

    def taken_over(self, heir: Machine, timeout_s: float = TAKEOVER_S_MAX) -> None:
        """`heir` becomes MASTER and the client is served by it."""
        # The client tells first: a machine that is asked twice a second takes half as long again for an import.
        began = time.monotonic()
        self._wait_for_writer(heir, timeout_s)
        pair.wait_for(heir, "MASTER", max(timeout_s - (time.monotonic() - began), 10.0))
        self.master, self.standby = heir, pair.other(heir)
        self.steady(f"after {heir.name} took over")
        client = self.clients[self.pools[0]]
        self.check.that(f"{heir.name} answers the client", client.acks[-1].writer == heir.name, client.acks[-1].writer)

    def _wait_for_writer(self, heir: Machine, timeout_s: float) -> None:
        """Until the client's newest record was acknowledged by `heir`, at most `timeout_s`."""
        client = self.clients[self.pools[0]]
        deadline = time.monotonic() + timeout_s
        client.look()
        while time.monotonic() < deadline and not (client.acks and client.acks[-1].writer == heir.name):
            time.sleep(0.1)
            client.look()

    def nothing_moves(self, hold_s: float, gap_s_max: float, of: tuple[Machine, ...] = CONTROLLERS) -> None:
        """For `hold_s` the MASTER stays and serves, and no controller of `of` changes its state."""
        before = {one.name: _last_sequence(one) for one in of}
        deadline = time.time() + hold_s
        while time.time() < deadline:
            time.sleep(0.5)
        said = pair.public_state(self.master)
        self.check.that(f"{self.master.name} is MASTER all the time", said == "MASTER", said)
        for one in of:
            moved = [record for record in pair.history(one) if record["seq"] > before[one.name]]
            self.check.that(f"{one.name} goes through no transition", not moved, [record["why"] for record in moved])
        self.steady("with the fault")
        for pool, gap in self.events[-1].gaps.items():
            self.check.that(f"{pool}: no gap above {gap_s_max:.1f} s", gap.length_s <= gap_s_max, f"{gap.length_s:.2f} s")

    def wait_for_pair(self, timeout_s: float) -> None:
        """Until there is a MASTER with a BACKUP, whoever it is."""
        for one in CONTROLLERS:
            remote.disconnect(one)
        self.master = pair.wait_for_master(timeout_s)
        self.standby = pair.other(self.master)

    def serves_again_or_power_cycle(self, may_cycle: bool = True) -> None:
        """Until there is a healthy pair; where a fault may need that, after both controllers were power-cycled."""
        try:
            self.wait_for_pair(BOOT_S_MAX / 2 if may_cycle else BOOT_S_MAX)
            self.steady("by itself")
        except LabError as error:
            if not may_cycle:
                raise
            self.note(f"not by itself ({error}): both controllers are power-cycled")
            recover.power_cycle()
            self.wait_for_pair(BOOT_S_MAX)

    def alarm(self, machine: Machine, *ids: str, timeout_s: float = 30.0) -> None:
        """The machine has said one of these messages since the last mark."""
        clock = pair.clock(machine)
        if clock is None:
            raise LabError(f"{machine.name} does not answer: its alarms can't be read")
        since = self.events[-1].at_s - clock.ahead_s - CLOCK_S_MAX
        deadline = time.monotonic() + timeout_s
        while True:
            said = {message["id"] for message in pair.messages(machine, since)}
            if said & set(ids) or time.monotonic() > deadline:
                break
            time.sleep(1.0)
        self.check.that(f"{machine.name} says {' or '.join(ids)}", bool(said & set(ids)), sorted(said))

    def back_as_standby(self, machine: Machine, timeout_s: float = BOOT_S_MAX) -> None:
        """The machine, which boots or has power, stands by in the end, could take over, and may write nowhere."""
        deadline = time.monotonic() + timeout_s
        remote.wait_until_up(machine, timeout_s)
        while not ((said := pair.state(machine)).get("status") == "BACKUP" and said.get("eligible")):
            if time.monotonic() > deadline:
                raise LabError(f"{machine.name} does not stand by within {timeout_s:.0f} s: {pair.short(said)}")
            time.sleep(0.5)
        pools = [pool for pool in self.pools if pair.has_pool(machine, pool)]
        self.check.that(f"{machine.name} stands by and has no pool", not pools, pools)
        self.check.that(f"{machine.name} may not write", not pair.disk_takes_write(machine, 0))

    def resets_itself(self, machine: Machine, timeout_s: float = BOOT_S_MAX) -> None:
        """The machine boots again without anybody's help."""
        remote.disconnect(machine)
        took = pair.wait_for_boot(machine, self.boots[machine.name], timeout_s)
        print(f"  {machine.name} is in another boot after {took:.1f} s")
        self.boots[machine.name] = pair.boot_id(machine)
        self.check.that(f"{machine.name} has reset itself", True)

    def power_on(self, machine: Machine) -> None:
        """Gives power and waits until it stands by."""
        faults.power_on(machine)
        self.back_as_standby(machine)
        self.boots[machine.name] = pair.boot_id(machine)

    def gap_figure(self) -> str:
        """The client's longest gaps over all events: median, longest, number."""
        lengths = sorted(gap.length_s for event in self.events for gap in event.gaps.values())
        if not lengths:
            return "no gap measured"
        return f"gap p50 {lengths[len(lengths) // 2]:.1f} s, max {lengths[-1]:.1f} s, n {len(lengths)}"

    def _heal(self) -> None:
        while self._undo:
            self._undo.pop()()
        self.master = pair.wait_for_master(BOOT_S_MAX)
        self.standby = pair.other(self.master)

    def _finish_clients(self) -> None:
        for pool, client in self.clients.items():
            if pool in self.without:
                client.kill()
                continue
            client.wait_until_steady(STEADY_S_MAX)
            client.wait_until_acknowledged(oracle.ACKS_MIN, ACKS_S_MAX)
            summary = client.stop()
            open_ones = summary["sent"] - summary["acknowledged"]
            self.check.that(f"{pool}: every record is acknowledged in the end", open_ones == 0, open_ones)

    def _judge(self) -> None:
        for pool, client in self.clients.items():
            if pool in self.without:
                continue
            verdict = client.judge(self.master)
            self.verdicts[pool] = oracle.describe(verdict)
            self.check.that(f"{pool}: oracle: {self.verdicts[pool]}", verdict["pass"], verdict)
            trouble = oracle.scrub(self.master, pool)
            kind = install.layout().fs
            self.check.that(f"{pool}: a scrub finds nothing" if kind == "zfs" else f"{pool}: {kind} is not scrubbed",
                            trouble is None, trouble)


def ask_to_hand_over(machine: Machine, timeout_s: float) -> None:
    """Asks and doesn't wait: what comes of it is seen at the other one. A refusal is in the journal."""
    call = f"midctl --timeout {timeout_s:.0f} call failover.become_passive"
    remote.must(machine, f"systemd-run --quiet --collect --unit=lab-ask sh -c {shlex.quote(call)}", 60.0)


def _last_sequence(machine: Machine) -> int:
    return max((record["seq"] for record in pair.history(machine)), default=0)
