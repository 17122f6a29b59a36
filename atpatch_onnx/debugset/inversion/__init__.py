"""Trigger inversion: searches an unknown trigger with the gradients of the graph. Needs torch (extra `fit`)."""

from __future__ import annotations

__all__ = ["Stopped"]


class Stopped(Exception):
    """Raised by a progress to end a search. What only makes a finding finer is left out then; the finding holds."""
