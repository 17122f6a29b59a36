"""Tiny models of many families, exported every way: which exporter takes what, and whether all attention is found."""
