"""Which trials have passed, with which programs: one line of JSON each, beside the reports. For a list that goes on."""

import hashlib
import json
import time
from pathlib import Path

import install
import remote
import report
import state
import topology


def key(name: str, short: bool, ext4: bool, folder: str | None) -> str:
    """Says what has to be the same for a trial's outcome to be worth something: its name and kind, programs,
    units, image, how the machines are started, and its own text."""
    programs = install.folder_of(folder)
    files = [programs / program for program in sorted(install.PROGRAMS)] + sorted(install.SYSTEMD.glob("*.*"))
    # What a trial expects is half of its outcome.
    files += [topology.HERE / "trials" / f"{name.partition('.')[0]}.py", topology.HERE / "scenario.py"]
    files += [topology.HERE / "machine.py"]
    # The conformance list is in its program.
    files += [programs / install.CONFORMANCE] if name.startswith("reservations") else []
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() if file.is_file() else b"")
    kind = f"{' short' if short else ''}{' ext4' if ext4 else ''}"
    image = "real machines" if remote.reach is not None else Path(state.load().image).name
    return f"{name}{kind} on {image} with {digest.hexdigest()[:16]}"


def note(key: str, seconds: float, passed: int, figures: list[str]) -> None:
    at = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    line = {"key": key, "seconds": round(seconds, 1), "passed": passed, "figures": figures, "at": at}
    with _path().open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def load() -> dict[str, dict]:
    """By key; the newest of each. A line that isn't whole counts as none."""
    found: dict[str, dict] = {}
    try:
        text = _path().read_text(encoding="utf-8")
    except FileNotFoundError:
        return found
    for line in text.splitlines():
        try:
            one = json.loads(line)
            found[one["key"]] = {word: one[word] for word in ("seconds", "passed", "figures", "at")}
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _path() -> Path:
    return report.folder() / "passed.jsonl"
