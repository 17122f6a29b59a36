"""Where the ids of tokens come from by which a detector knows that columns hold the same token."""

from __future__ import annotations

import numpy as np

from rewriters.finding.token_inputs import token_inputs

from ..inference.capture import Capture
from .training import Context

__all__ = ["token_ids"]

VARIED = 4
"""Where clean rows have this many times as many different tokens as columns, equal tokens count as one (see
`OneClass.tokens`, `Profile.tokens`). With fewer, as with letters or amino acids, a repeated token is no sign of
anything.
"""


def token_ids(context: Context, capture: Capture) -> str | None:
    """The graph input with the ids of the tokens that are the key columns of all sites; None where there is none, or
    where clean rows repeat tokens by chance.

    A decoder with a cache has key columns without an id: its other inputs are of no known meaning.
    """
    found = token_inputs(context.model, capture.sites)
    if found is None or found.unknown or not all(site.self_attention for site in capture.sites):
        return None
    ids = context.data.inputs[found.tokens]
    return found.tokens if len(np.unique(ids)) >= VARIED * ids.shape[1] else None
