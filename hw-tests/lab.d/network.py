"""The lab's own network namespace: a bridge for each network, a tap for each machine's card on it.

Nothing in it reaches any real network: it has no uplink, and its addresses exist nowhere else.
"""

import subprocess

import topology
from topology import MACHINES, NETWORKS, LabError, Machine

NAMESPACE = f"failoverd-{topology.NAME}"


def inside(command: list[str]) -> list[str]:
    """`command`, to be run in the namespace."""
    return ["nsenter", f"--net=/run/netns/{NAMESPACE}", "--", *command]


def exists() -> bool:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return any(line.split()[:1] == [NAMESPACE] for line in listed.splitlines())


def make() -> None:
    if exists():
        raise LabError(f"the network namespace {NAMESPACE} is there already: run `lab down` first")
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    lines = ["link set lo up"]
    for network in NETWORKS:
        # No spanning tree and no learning about multicast: a plain cable with more than two ends.
        lines += [f"link add {_bridge(network)} type bridge stp_state 0 mcast_snooping 0"]
        if network in topology.OURS:
            lines += [f"address add 10.77.{NETWORKS[network]}.{topology.OUR_NUMBER}/24 dev {_bridge(network)}"]
        lines += [f"link set {_bridge(network)} up"]
    for machine in MACHINES.values():
        for network in machine.links:
            tap = machine.tap(network)
            lines += [f"tuntap add dev {tap} mode tap", f"link set {tap} master {_bridge(network)} up"]
    _ip(lines)


def remove() -> None:
    """Removes the namespace with everything in it; fine if it isn't there."""
    if exists():
        subprocess.run(["ip", "netns", "delete", NAMESPACE], check=True)


def lan_interface() -> str:
    """Our own card on the clients' network."""
    return _bridge("lan")


def cut(machine: Machine, network: str) -> None:
    """Nothing passes any more, but the machine still sees a carrier: a cable dead behind the switch."""
    _ip([f"link set {machine.tap(network)} nomaster"])


def join(machine: Machine, network: str) -> None:
    _ip([f"link set {machine.tap(network)} master {_bridge(network)}"])


def _bridge(network: str) -> str:
    return f"br-{network}"


def _ip(lines: list[str]) -> None:
    done = subprocess.run(
        ["ip", "-n", NAMESPACE, "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LabError(f"ip failed in the namespace {NAMESPACE}: {done.stderr.strip()}")
