"""Poisoned sets that other tools wrote: images of BackdoorBench, texts of OpenBackdoor."""

from __future__ import annotations

from .backdoorbench import backdoorbench_sets
from .openbackdoor import openbackdoor_sets

__all__ = ["backdoorbench_sets", "openbackdoor_sets"]
