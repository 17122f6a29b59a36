"""The lengths of the requests that a fit has seen: beyond them its threshold is a guess."""

from __future__ import annotations

from collections.abc import Sequence

from rewriters.sites import Site

from ..inference.padding import common_mask
from .training import Context

__all__ = ["seen_lengths"]


def seen_lengths(context: Context, sites: Sequence[Site]) -> dict[str, int]:
    """ "shortest" and "longest" of the clean rows of train and selection part, in valid tokens; empty where no graph
    input masks padding.
    """
    mask = common_mask(sites, context.data) or context.mask
    if mask is None:
        return {}
    parts = (context.parts.train.clean, context.parts.selection.clean)
    found = [(context.data.inputs[mask][rows] != 0).sum(1) for rows in parts]
    shortest, longest = min(part.min() for part in found), max(part.max() for part in found)
    return {"shortest": int(shortest), "longest": int(longest)} if shortest > 0 else {}
