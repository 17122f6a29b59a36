"""Constants of several unequal numbers: a row of scores, a vector of hidden values, a picture."""

from __future__ import annotations

import numpy as np

from .material import Material

__all__ = ["is_row"]

_REPEATS = frozenset({"Expand", "Reshape", "Tile", "Unsqueeze", "Squeeze", "Cast", "Identity", "Transpose"})


def is_row(material: Material, value: int) -> bool:
    """A constant of several unequal numbers, perhaps repeated for all samples."""
    while value >= 0 and value not in material.values.constant and material.taint.state(value) is None:
        step = material.maker.get(value)
        if step is None or step.kind not in _REPEATS:
            return False
        value = step.inputs[0]
    if value < 0 or material.taint.state(value) is not None:
        return False
    array = material.values.array(value)
    if array is None:
        return value in material.values.constant and (material.values.size(value) or 0) > 1
    return array.size > 1 and array.dtype.kind in "fiu" and bool(np.ptp(array.astype(np.float64)) > 0)
