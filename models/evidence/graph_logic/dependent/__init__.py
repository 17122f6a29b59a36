"""Graphs with logic that depends on values: ordinary ones and planted ones, in two halves.

The rules were changed with the first half in sight. The second half was made at the same time and looked at once.
"""
