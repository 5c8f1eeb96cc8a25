"""From whatever a trial left to a healthy pair: one MASTER, one BACKUP that could take over, every fault mended."""

import faults
import install
import pair
import remote
from topology import CONTROLLERS, MACHINES, LabError, Machine

HEALTHY_S_MAX = 120.0
BOOT_S_MAX = 300.0


def healthy_pair() -> Machine:
    """The MASTER of a healthy pair; mends, then power-cycles, then installs anew until there is one."""
    try:
        return pair.wait_for_master(HEALTHY_S_MAX)
    except LabError as error:
        print(f"  no healthy pair ({error}): everything is mended and both controllers are power-cycled")
    heal()
    power_cycle()
    try:
        return pair.wait_for_master(BOOT_S_MAX)
    except LabError as error:
        print(f"  still none ({error}): the programs are installed anew, on new pools")
    install.again()
    return pair.wait_for_master(BOOT_S_MAX)


def heal() -> None:
    """Ends every fault that the lab knows of, and gives power; what is mended already stays as it is."""
    for one in MACHINES.values():
        remote.disconnect(one)
        if faults.power(one) == "off":
            faults.power_on(one)
            remote.wait_until_up(one, BOOT_S_MAX)
    faults.heal()


def power_cycle() -> None:
    """Both controllers lose their power and boot."""
    for one in CONTROLLERS:
        if faults.power(one) != "off":
            faults.power_off(one)
    for one in CONTROLLERS:
        faults.power_on(one)
    for one in CONTROLLERS:
        remote.wait_until_up(one, BOOT_S_MAX)
