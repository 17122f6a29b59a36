"""Try a newly loaded model on a made-up input before it takes the place of another.

A new model that fails where the old one does not, or gives NaN where the old one does not, is refused.
"""

from __future__ import annotations

import numpy as np

from ..errors import RUNTIME_REFUSES
from .arms import Arm, ArmFault
from .tensors import NUMPY_TYPES, Array, Arrays, TensorSpec

__all__ = ["try_out"]

_PROBE_SECONDS = 30.0
_OPEN_DIMENSION = 2


async def try_out(new: Arm, old: Arm) -> None:
    """Run both on the same input. Raises: ATP052 where the new one does worse."""
    feeds = {spec.name: _made_up(spec) for spec in new.inputs}
    try:
        known = (await old.run(feeds, _PROBE_SECONDS)).outputs
    except ArmFault:
        return  # this model cannot run on zeros, so they are no test for the new one either
    try:
        found = (await new.run(feeds, _PROBE_SECONDS)).outputs
    except ArmFault as fault:
        raise RUNTIME_REFUSES(
            f"the new {new.name} model fails where the old one does not: {fault}", "keep the old file"
        ) from fault
    for output in found:
        if _finite(known, output) and not _finite(found, output):
            raise RUNTIME_REFUSES(
                f"the new {new.name} model gives NaN or infinity in {output} where the old one does not",
                "keep the old file",
            )


def _made_up(spec: TensorSpec) -> Array:
    shape = [
        1 if axis == 0 and dim == -1 else _OPEN_DIMENSION if dim == -1 else dim for axis, dim in enumerate(spec.shape)
    ]
    if spec.datatype == "BYTES":
        return np.full(shape, "", object)
    return np.zeros(shape, NUMPY_TYPES[spec.datatype])


def _finite(outputs: Arrays, name: str) -> bool:
    return outputs[name].dtype.kind != "f" or bool(np.isfinite(outputs[name]).all())
