"""The serial line of a machine: a root shell that needs no network."""

import os
import select
import socket
import sys
import termios
import tty

import topology
from topology import LabError, Machine

LEAVE = b"\x1d"  # Ctrl-]


def attach(machine: Machine) -> None:
    """Joins this terminal with the serial line until Ctrl-], or until the machine goes off."""
    path = topology.running() / f"{machine.name}.serial"
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(str(path))
        except OSError as error:
            raise LabError(f"no serial line at {path}: {error}; is {machine.name} on?") from None
        print(f"serial line of {machine.name}; Ctrl-] leaves, Enter wakes the shell", file=sys.stderr)
        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard) if os.isatty(keyboard) else None
        try:
            if before:
                tty.setraw(keyboard)
            _copy(line, keyboard)
        finally:
            if before:
                termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def show(machine: Machine) -> None:
    """Prints all that the serial line has said since `lab up`."""
    path = topology.running() / f"{machine.name}.console.log"
    try:
        sys.stdout.write(path.read_text(errors="replace"))
    except FileNotFoundError:
        raise LabError(f"{path} is not there: the lab has not been up") from None


def _copy(line: socket.socket, keyboard: int) -> None:
    sources = [line, keyboard]
    while True:
        for source in select.select(sources, [], [])[0]:
            if source is line:
                said = line.recv(4096)
                if not said:
                    return
                os.write(sys.stdout.fileno(), said)
                continue
            typed = os.read(keyboard, 4096)
            if not typed:
                # Input from a pipe has ended; what the machine answers is still shown.
                sources.remove(keyboard)
            before, found, _ = typed.partition(LEAVE)
            line.sendall(before)
            if found:
                return
