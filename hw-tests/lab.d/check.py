"""The list of trials, how a trial says what it saw, and how the tests are counted."""

import importlib
import signal
import time
from dataclasses import dataclass, replace

import install
import pair
import passed
import recover
import remote
import report
import session
import state
from install import Layout
from topology import LabError

RECOVER_S_MAX = 900.0


class Skip(Exception):
    """A trial that can't run here; its text says why."""


class Check:
    """Counts what held and what didn't; a trial goes on after a failure, so that one run shows all of them."""

    def __init__(self, short: bool = False) -> None:
        # What is done many times is done once or twice.
        self.short = short
        self.passed = 0
        self.failed = 0
        self.lines: list[tuple[str, bool, object]] = []
        # Figures that the summary shows.
        self.figures: list[str] = []

    @staticmethod
    def of(passed: int, figures: list[str], at: str) -> "Check":
        """Of a trial that passed before."""
        check = Check()
        check.passed, check.figures = passed, [*figures, f"passed {at}"]
        return check

    def that(self, what: str, holds: bool, seen: object = "") -> None:
        self.lines.append((what, bool(holds), seen))
        if holds:
            self.passed += 1
            print(f"  ok      {what}")
        else:
            self.failed += 1
            print(f"  FAILED  {what}: saw {seen!r}")


@dataclass(frozen=True)
class Trial:
    """One entry of the list: `run` of trials/MODULE.py, or another function of it after a dot."""

    name: str
    deadline_s: float
    # What has to be installed, on how many disks; none: no daemon may run, and what was installed is worth nothing after.
    layout: Layout | None = Layout()
    disks: int = 8
    short: bool = False

    def function(self):
        module, _, case = self.name.partition(".")
        return getattr(importlib.import_module(f"trials.{module}"), case or "run")


def trials() -> list[Trial]:
    """All of them, in the order in which the whole list runs: what needs another layout comes last."""
    from trials import WHOLE

    return list(WHOLE)


def pick(names: list[str], short: bool, begin: str | None) -> list[Trial]:
    """Those of these names; all of a module by its name alone. Without names the short or the whole list, from `begin` on."""
    known = trials()
    chosen = [trial for trial in known if trial.short] if short else known
    if names:
        chosen = []
        for name in names:
            found = [trial for trial in known if name in (trial.name, trial.name.partition(".")[0])]
            if not found:
                raise LabError(f"no such test: {name}; `lab test --list` shows them")
            chosen += [trial for trial in found if trial not in chosen]
    if begin:
        places = [place for place, trial in enumerate(chosen) if trial.name == begin]
        if not places:
            raise LabError(f"--from {begin}: not among {', '.join(trial.name for trial in chosen)}")
        chosen = chosen[places[0]:]
    return chosen


def show() -> None:
    """Prints the list, with the first sentence of each docstring."""
    for trial in trials():
        doc = (trial.function().__doc__ or importlib.import_module(f"trials.{trial.name.partition('.')[0]}").__doc__ or "")
        print(f"{'short ' if trial.short else '      '}{trial.name:28} {' '.join(doc.split('.')[0].split())}")


@dataclass(frozen=True)
class Row:
    """One line of the summary."""

    name: str
    outcome: str
    seconds: float
    check: Check


def run(chosen: list[Trial], short: bool = False, ext4: bool = False, again: bool = False, resume: bool = False) -> bool:
    """Runs trials in the order given, and leaves a summary beside their reports. Answers whether none failed.

    `resume`: the list takes two hours. What has passed with these very programs on this image isn't run again, and stands
    in the summary with the day on which it did.

    `again`: emulated machines fail by themselves at times, so what failed is tried a second time, on machines booted
    afresh. The summary shows both; the second outcome counts.
    """
    began = time.monotonic()
    rows: list[Row] = []
    # Some trials leave nothing installed: what follows them has the programs that were there.
    known = install.remembered()
    folder = known[1] if known else None
    before = passed.load() if resume else {}
    for trial in chosen:
        if found := before.get(passed.key(trial.name, short, ext4, folder)):
            rows.append(Row(trial.name, "passed", found.pop("seconds"), Check.of(**found)))
            continue
        row = _run_timed(trial, Check(short), ext4, folder)
        rows.append(row)
        if row.outcome == "FAILED" and again and remote.reach is None:
            rows[-1] = replace(row, outcome="failed")
            print(f"SECOND TRY of {trial.name}, on machines booted afresh: see above what failed", flush=True)
            rows.append(_run_timed(trial, Check(short), ext4, folder, afresh=True))
        if rows[-1].outcome == "passed":
            last = rows[-1]
            passed.note(passed.key(trial.name, short, ext4, folder), last.seconds, last.check.passed, last.check.figures)
    text = _summary(rows, time.monotonic() - began)
    print(f"\n{text}")
    (report.folder() / "summary.txt").write_text(text + "\n")
    return all(row.outcome != "FAILED" for row in rows)


def _run_timed(trial: Trial, check: Check, ext4: bool, folder: str | None, afresh: bool = False) -> Row:
    start = time.monotonic()
    print(f"{trial.name}:", flush=True)
    panics = pair.panics_of_enclosure()
    outcome = _run_one(trial, check, ext4, folder, afresh)
    if pair.panics_of_enclosure() > panics:
        print("  the enclosure's kernel panicked meanwhile: see its console")
    row = Row(trial.name, outcome, time.monotonic() - start, check)
    print(f"{trial.name}: {outcome} in {row.seconds:.1f} s", flush=True)
    return row


def _summary(rows: list[Row], total_s: float) -> str:
    lines = [f"{'trial':24} {'outcome':8} {'s':>7}  {'checks':>7}  figures"]
    for row in rows:
        checks = f"{row.check.passed}/{row.check.passed + row.check.failed}"
        lines.append(f"{row.name:24} {row.outcome:8} {row.seconds:7.1f}  {checks:>7}  {'; '.join(row.check.figures)}".rstrip())
    seconds = sum(row.outcome == "failed" for row in rows)
    if seconds:
        lines.append(f"{seconds} failed first and had a second try")
    counts = {outcome: sum(row.outcome == outcome for row in rows) for outcome in ("passed", "FAILED", "skipped")}
    lines.append(f"in all {total_s:.1f} s")
    lines.append(f"{counts['passed']} passed, {counts['FAILED']} failed, {counts['skipped']} skipped")
    return "\n".join(lines)


def _run_one(trial: Trial, check: Check, ext4: bool, folder: str | None, afresh: bool) -> str:
    try:
        with _deadline(RECOVER_S_MAX, "preparing the lab"):
            if afresh:
                _reboot()
            _prepare(trial, ext4, folder)
        with _deadline(trial.deadline_s, trial.name):
            trial.function()(check)
        if check.passed + check.failed == 0:
            check.that("checks something", False, "no check")
    except Skip as why:
        print(f"  SKIPPED: {trial.name}: {why}")
        return "skipped"
    except LabError as error:
        check.that("runs to its end", False, str(error))
    if check.failed:
        try:
            with _deadline(RECOVER_S_MAX, "mending the lab"):
                recover.heal()
        except LabError as error:
            print(f"  the lab can't be mended: {error}")
    return "FAILED" if check.failed else "passed"


def _reboot() -> None:
    """Everything off and on, the enclosure included, with what is installed installed anew."""
    known, now = install.remembered(), state.load()
    session.down()
    session.up(now.disks, now.paths, now.protocol)
    if known:
        install.install(known[1], known[0])


def _prepare(trial: Trial, ext4: bool, folder: str | None) -> None:
    """Brings the lab to the layout that the trial needs, with the programs of `folder`; nothing if it has it."""
    if trial.layout is None:
        if remote.reach is not None:
            raise Skip("looks at the virtual lab itself")
        install.stop()
        return
    wanted = trial.layout
    if ext4:
        if wanted != Layout() or trial.disks != 8:
            raise Skip("needs ZFS")
        wanted = Layout(fs="ext4")
    known = install.remembered()
    if remote.reach is not None:
        if trial.layout != Layout() or trial.disks != 8:
            raise Skip("needs another installation than these machines have")
        return
    if known and known[0] == wanted and state.load().disks == trial.disks:
        return
    now = state.load()
    if now.disks != trial.disks:
        session.down()
        session.up(trial.disks, now.paths, now.protocol)
    install.install(folder, wanted)


class _deadline:
    """Ends what runs inside with an error once the time is over."""

    def __init__(self, seconds: float, what: str) -> None:
        self.seconds, self.what = seconds, what

    def __enter__(self) -> None:
        def over(signum: int, frame: object) -> None:
            raise LabError(f"{self.what} is not done within {self.seconds:.0f} s")

        signal.signal(signal.SIGALRM, over)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
