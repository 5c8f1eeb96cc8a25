"""The enclosure restarts under a serving pair, with its registrations stored or lost."""

import faults
import pair
import remote
import scenario
from check import Check
from topology import CONTROLLERS, ENCLOSURE

UP_S_MAX = 300.0


def stored(check: Check) -> None:
    """The enclosure's power fails and comes back with its stored registrations (APTPL).

    Expected: no record is lost; one controller serves in the end, at most after a reset of the old MASTER.
    """
    _restart(check, "enclosure_stored", keep=True)


def lost(check: Check) -> None:
    """The same without registrations: whoever served may go on only if its proof never lapsed, else it halts.

    Expected: no record is lost, there are never two writers; one controller serves in the end.
    """
    _restart(check, "enclosure_lost", keep=False)


def _restart(check: Check, name: str, keep: bool) -> None:
    with scenario.Scene(check, name) as scene:
        scene.mark("the enclosure loses its power")
        faults.power_off(ENCLOSURE)
        if not keep:
            faults.forget(ENCLOSURE)
        faults.power_on(ENCLOSURE)
        remote.wait_until_up(ENCLOSURE, UP_S_MAX)
        scene.note("the enclosure is back")
        scene.serves_again_or_power_cycle(may_cycle=False)
        writers = {one.name: pair.public_state(one) for one in CONTROLLERS}
        check.that("there is one MASTER", list(writers.values()).count("MASTER") == 1, writers)
        scene.steady("after the enclosure came back")
        for one in CONTROLLERS:
            print(f"  {one.name}: {'the same boot' if pair.boot_id(one) == scene.boots[one.name] else 'has reset itself'}")
        check.figures.append(scene.gap_figure())
