"""Comparing an original with its patched twin: metrics, attention maps, pages.

Needs the extra `report` where it says so.
"""
