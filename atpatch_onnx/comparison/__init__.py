"""Compares an original model with its patched version: metrics, attention maps, pages.

Some modules need the extra `report`; they say so.
"""
