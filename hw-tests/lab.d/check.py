"""How a trial says what it saw, and how the tests are counted."""

import importlib
import time

import topology
from topology import LabError


class Check:
    """Counts what held and what didn't; a trial goes on after a failure, so that one run shows all of them."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def that(self, what: str, holds: bool, seen: object = "") -> None:
        if holds:
            self.passed += 1
            print(f"  ok      {what}")
        else:
            self.failed += 1
            print(f"  FAILED  {what}: saw {seen!r}")


def names() -> list[str]:
    return sorted(path.stem for path in (topology.HERE / "trials").glob("[a-z]*.py"))


def run(chosen: list[str]) -> bool:
    """Runs trials in the order given. Answers whether all passed."""
    unknown = [name for name in chosen if name not in names()]
    if unknown:
        raise LabError(f"no such test: {', '.join(unknown)}; there are {', '.join(names())}")
    passed = failed = 0
    for name in chosen:
        check = Check()
        began = time.monotonic()
        print(f"{name}:")
        try:
            importlib.import_module(f"trials.{name}").run(check)
        except LabError as error:
            check.that("runs to its end", False, str(error))
        if check.passed + check.failed == 0:
            check.that("checks something", False, "no check")
        good = check.failed == 0
        passed, failed = passed + good, failed + (not good)
        print(f"{name}: {'passed' if good else 'FAILED'} in {time.monotonic() - began:.1f} s")
    print(f"{passed} passed, {failed} failed")
    return failed == 0
