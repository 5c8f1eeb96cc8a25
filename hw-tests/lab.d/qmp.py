"""One command to a running QEMU over its control socket."""

import json
import socket

import topology
from topology import LabError, Machine

ANSWER_S_MAX = 10.0


def command(machine: Machine, execute: str, **arguments: object) -> object:
    """Sends one command and answers what it returned. A frozen QEMU doesn't answer: that is an error after 10 s."""
    path = topology.running() / f"{machine.name}.qmp"
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(ANSWER_S_MAX)
            line.connect(str(path))
            with line.makefile("rwb") as stream:
                stream.readline()  # the greeting
                _ask(stream, {"execute": "qmp_capabilities"})
                return _ask(stream, {"execute": execute, "arguments": arguments})
    except TimeoutError:
        raise LabError(f"{machine.name} doesn't answer at {path}: is it frozen? `lab fault thaw {machine.name}`") from None
    except OSError as error:
        raise LabError(f"{machine.name} can't be reached at {path}: {error}; is it powered on?") from None


def _ask(stream: socket.SocketIO, question: dict) -> object:
    stream.write(json.dumps(question).encode() + b"\n")
    stream.flush()
    for line in iter(stream.readline, b""):
        answer = json.loads(line)
        if "return" in answer:
            return answer["return"]
        if "error" in answer:
            raise LabError(f"QEMU refused {question['execute']}: {answer['error']['desc']}")
        # Anything else is an event; the log of QEMU is not our business here.
    raise LabError(f"QEMU closed its control socket before it answered {question['execute']}")
