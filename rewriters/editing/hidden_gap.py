"""Hides the gap that tokens leave behind: padding mask and positions of the shorter request, padded where the gap is.

The mask is 0 in the gap. Positions that are an input begin behind it: the first token that stays has that of the first
place, the next one that of the next, whether they count places or tokens. Positions that the graph counts from the mask
follow by themselves. Where it counts places instead, each token has the position of the place it stands at, as in every
request that is padded there.

With no gap, all numbers are those of the inputs.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from ..emit import Emitter
from ..finding.hiding import Hiding

__all__ = ["hide_gap"]


def hide_gap(e: Emitter, hides: Hiding, tokens: str, counted: str) -> dict[str, str]:
    """Emit what takes the place of each input.

    Args:
        tokens: graph input (B, S).
        counted: see `new_tokens.ClosedUp.counted`.
    """
    hidden = e.op("Less", counted, e.constant(0, np.int64), role="gap")
    if hides.dtype == TensorProto.BOOL:
        shown = e.op("And", hides.mask, e.op("Not", hidden), role="mask")
    else:
        nothing = e.constant(0, helper.tensor_dtype_to_np_dtype(hides.dtype))
        shown = e.op("Where", hidden, nothing, hides.mask, role="mask")
    instead = {hides.mask: shown}
    if hides.positions:
        every = e.op("Expand", hides.positions, e.dims(tokens, 0, 2))
        place = e.op("Max", counted, e.constant(0, np.int64))
        instead[hides.positions] = e.op("GatherElements", every, place, axis=1, role="positions")
    return instead
