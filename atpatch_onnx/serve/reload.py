"""Reload a model file while the server runs: the new model is loaded and tried next to the old one, then takes its
place.

1. Loading takes place in a thread; requests go on.
2. Inputs and outputs must be those of the arms that run (ATP075).
3. Both are run on the same made-up input. A new model that fails where the old one does not, or gives NaN where the old
   one does not, is refused.
4. Whoever asked the old model before the exchange gets its answer from it; it is freed after the last of them.
"""

from __future__ import annotations

import asyncio

import numpy as np

from ..errors import RUNTIME_REFUSES, AtpatchError
from .arms import PATCHED, Arm, ArmFault, ArmName
from .engine import Engine
from .lanes import load_arm, make_lane
from .tensors import NUMPY_TYPES, Array, Arrays, TensorSpec

__all__ = ["reload"]

_PROBE_SECONDS = 30.0
_OPEN_DIMENSION = 2


async def reload(engine: Engine, name: ArmName) -> int:
    """Load one arm's file again. On any failure the old model stays.

    Returns: the new revision.

    Raises:
        AtpatchError: of loading; ATP075 (another signature), ATP052 (fails or gives NaN where the old one does not).
    """
    old = engine.lanes[name]
    try:
        arm = await asyncio.to_thread(load_arm, name, engine.settings)
        arm.require_same_signature(old.arm)
        await _try_out(arm, old.arm)
    except AtpatchError:
        engine.metrics.reloaded(name, "refused")
        raise
    if name == PATCHED:
        arm.set_controls(engine.enabled, engine.threshold)
    lane = make_lane(arm, engine.settings)
    lane.runs, lane.joined = old.runs, old.joined
    engine.lanes[name] = lane
    engine.metrics.reloaded(name, "done")
    return engine.revise(f"reload {name}")


async def _try_out(new: Arm, old: Arm) -> None:
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
