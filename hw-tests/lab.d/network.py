"""The lab's own network namespaces: a bridge for each network with a tap for each machine's card, and a client beside it.

    client's namespace          the lab's namespace
      lan0 10.77.3.253 ── veth ── br-lan ── a-lan, b-lan (taps)      br-mgmt, br-hb0, ... likewise

Nothing in them reaches any real network: there is no uplink, and the addresses exist nowhere else.
"""

import subprocess

import topology
from topology import MACHINES, NETWORKS, LabError, Machine

NAMESPACE = f"failoverd-{topology.NAME}"
CLIENT = f"{NAMESPACE}-client"
CLIENT_NUMBER = 253


def inside(command: list[str]) -> list[str]:
    """`command`, to be run in the lab's namespace, from where every machine can be reached for its care."""
    return ["nsenter", f"--net=/run/netns/{NAMESPACE}", "--", *command]


def client(command: list[str]) -> list[str]:
    """`command`, to be run as a client: a computer of its own on the LAN, that reaches nothing else."""
    return ["nsenter", f"--net=/run/netns/{CLIENT}", "--", *command]


def exists() -> bool:
    return bool(_ours())


def make() -> None:
    if exists():
        raise LabError(f"the network namespace {NAMESPACE} is there already: run `lab down` first")
    for name in (NAMESPACE, CLIENT):
        subprocess.run(["ip", "netns", "add", name], check=True)
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
    lines += [f"link add client type veth peer name lan0 netns {CLIENT}", "link set client master br-lan up"]
    _ip(lines)
    _ip(["link set lo up", f"address add 10.77.{NETWORKS['lan']}.{CLIENT_NUMBER}/24 dev lan0", "link set lan0 up"], CLIENT)


def remove() -> None:
    """Removes the namespaces with everything in them; fine if they aren't there."""
    for name in _ours():
        subprocess.run(["ip", "netns", "delete", name], check=True)


def cut(machine: Machine, network: str) -> None:
    """Nothing passes any more, but the machine still sees a carrier: a cable dead behind the switch."""
    _ip([f"link set {machine.tap(network)} nomaster"])


def join(machine: Machine, network: str) -> None:
    _ip([f"link set {machine.tap(network)} master {_bridge(network)}"])


def lose(machine: Machine, network: str, percent: int) -> None:
    """Of what passes in either direction, so many of a hundred packets are lost, each by chance; 0 ends it."""
    tap = machine.tap(network)
    # A minus sign is no part of a name for nft.
    table = f"netdev loss_{tap.replace('-', '_')}"
    lines = [f"add table {table}", f"delete table {table}"]
    if percent:
        lines += [f"add table {table}"]
        for hook in ("ingress", "egress"):
            lines += [f'add chain {table} {hook} {{ type filter hook {hook} device "{tap}" priority 0; }}']
            lines += [f"add rule {table} {hook} numgen random mod 100 < {percent} drop"]
    done = subprocess.run(inside(["nft", "-f", "-"]), input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"nft failed in the namespace {NAMESPACE}: {done.stderr.strip()}")


def _ours() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listed.splitlines() if line.split()[:1] in ([NAMESPACE], [CLIENT])]


def _bridge(network: str) -> str:
    return f"br-{network}"


def _ip(lines: list[str], namespace: str = NAMESPACE) -> None:
    done = subprocess.run(
        ["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LabError(f"ip failed in the namespace {namespace}: {done.stderr.strip()}")
