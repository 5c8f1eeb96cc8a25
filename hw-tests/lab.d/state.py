"""What the running lab has to remember from one command to the next: one small file in its folder."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import topology
from image import Image
from topology import ENCLOSURE, LabError, Machine


@dataclass
class State:
    image: str  # folder of the image
    disks: int
    paths: int  # from each controller to each disk
    protocol: str = "scsi"  # or "nvme"
    enclosure_image: str = ""  # folder of the enclosure's, where it is another one
    # What is broken ("a.hb0", "disk 3", "a disk 3", "a clock") -> how ("down", "cut", "hangs", ...)
    faults: dict[str, str] = field(default_factory=dict)

    def image_of(self, machine: Machine) -> Image:
        other = self.enclosure_image if machine is ENCLOSURE else ""
        return Image(Path(other or self.image))


def load() -> State:
    try:
        return State(**json.loads(_path().read_text()))
    except FileNotFoundError:
        raise LabError("the lab is not up: run `lab up`") from None


def save(state: State) -> None:
    unfinished = _path().with_suffix(".new")
    unfinished.write_text(json.dumps(asdict(state)))
    unfinished.rename(_path())


def _path() -> Path:
    return topology.running() / "lab.json"
