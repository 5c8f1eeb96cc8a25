"""Tests on the running lab. A trial is a module here with `run(check)`; its docstring says what it proves and what has to
come of it. A module with several cases has a function for each."""

from check import Trial

WHOLE = (
    Trial("reservations", 300, layout=None),
    Trial("breakage", 400, layout=None),
    Trial("handover", 600, short=True),
    Trial("power_cut", 900, short=True),
)
