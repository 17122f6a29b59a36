"""Bytes that nobody meant: mutated models, hotfixes, data sets, logs and requests, from a seed.

Every case is told by its kind, seed and number, runs the commands that read such a file, and must end in one of the
exit codes with nothing half-written. `python -m tests.fuzz models --count 5000` runs many in child processes, so that a
crash or a hang is one finding.
"""
