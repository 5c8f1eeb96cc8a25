"""Tests on the running lab. A trial is a module here with `run(check)`, or with a function for each of its cases; its
docstring says what it proves and what has to come of it."""

from check import Trial
from install import Layout

# In the order in which the whole list runs. Deadlines are for a busy computer: a boot takes up to two minutes there.
WHOLE = (
    Trial("reservations", 400, layout=None),
    Trial("reservations.conformance", 1800, layout=None),
    Trial("breakage", 700, layout=None),
    Trial("shelf", 1200, layout=None),
    Trial("nvme", 600, layout=None),
    Trial("handover", 900, short=True),
    Trial("power_cut", 2400, short=True),
    Trial("freeze", 700, short=True),
    Trial("freeze.daemon", 700),
    Trial("panic", 700),
    Trial("links.hb0", 300),
    Trial("links.hb1", 300),
    Trial("links.heartbeats", 300, short=True),
    Trial("links.lan_of_master", 400),
    Trial("links.lan_of_backup", 300),
    Trial("storage.of_master", 700),
    Trial("storage.of_backup", 400),
    Trial("disks.one", 400),
    Trial("disks.minority", 400),
    Trial("disks.hang", 700, short=True),
    Trial("disks.majority", 1200),
    Trial("disks.not_won", 900),
    Trial("enclosure.stored", 900),
    Trial("enclosure.lost", 900),
    Trial("pause", 700),
    Trial("power.cold_start", 2400),
    Trial("power.backup", 600),
    Trial("daemon", 700),
    Trial("visible", 300),
    Trial("restart", 1500),
    Trial("package", 3600),
    Trial("identity.cloned", 500),
    Trial("identity.other_key", 500),
    Trial("takeover_time", 3600),
    Trial("double_writer", 900),
    Trial("two_pools", 1200, layout=Layout(two_pools=True)),
    Trial("multihost", 1200, layout=Layout(multihost=True)),
    Trial("scale.disks24", 1800, disks=24),
    Trial("scale.disks64", 2700, disks=64),
)
