"""Tests on the running lab. A trial is a module here with `run(check)`; its docstring says what it proves."""
