"""Poisoned sets that other tools wrote: images of BackdoorBench, texts of OpenBackdoor."""

from __future__ import annotations

from .backdoorbench import backdoorbench_sets
from .openbackdoor import openbackdoor_sets
from .tables import files_read

__all__ = ["backdoorbench_sets", "files_read", "openbackdoor_sets"]
