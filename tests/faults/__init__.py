"""Faults at every file operation of everything that writes: a full disk, a broken one, refused, short, killed, torn.

`python -m tests.faults` tries all of them and prints a table; `--help` says how to try some.
"""
