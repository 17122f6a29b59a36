"""Reload a model file while the server runs, or change the mode: the new model is loaded and tried next to the old one,
then takes its place.

1. Loading takes place in a thread; requests go on.
2. Inputs and outputs must be those of the arms that run (ATP075).
3. Both are run on the same made-up input, see `trial`.
4. Requests that came before the exchange get the old model's answer; it is freed after the last of them.
5. A hotfix that was fitted on the first requests belongs to the original that answered them, so another original is
   refused.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ..errors import ARMS_DIFFER, AtpatchError
from .arms import ORIGINAL, PATCHED, ArmName
from .engine import Engine
from .lanes import load_arm, make_lane
from .limits import Refusal
from .settings import Mode, Settings
from .trial import try_out

__all__ = ["CHANGEABLE", "change_mode", "reload"]

CHANGEABLE: tuple[Mode, ...] = ("shadow", "ab", "patched")
"""Modes that a running server can change between."""


async def reload(engine: Engine, name: ArmName) -> int:
    """Load one arm's file again. On any failure the old model stays.

    Returns: the new revision.

    Raises:
        AtpatchError: of loading; ATP075 (another signature, or another original), ATP052 (fails or gives NaN where the
            old one does not).
    """
    await _exchange(engine, name, engine.settings)
    return engine.revise(f"reload {name}")


async def change_mode(engine: Engine, mode: Mode) -> int:
    """Change who answers, between "shadow", "ab" and "patched".

    The patched model is loaded again, since its threads have a low priority only in mode "shadow".

    Returns: the revision, a new one where the mode is another.

    Raises:
        Refusal: 409 where no patched model is loaded.
        AtpatchError: as `reload`.
    """
    if PATCHED not in engine.lanes:
        state = f": {engine.calibration.status}" if engine.calibration else ""
        raise Refusal(409, f"no patched model is loaded{state}")
    if mode == engine.settings.mode:
        return engine.revision
    settings = replace(engine.settings, mode=mode)
    await _exchange(engine, PATCHED, settings)
    engine.settings = settings
    return engine.revise(f"mode {mode}", weight=settings.split_weight)


async def _exchange(engine: Engine, name: ArmName, settings: Settings) -> None:
    old, calibration = engine.lanes[name], engine.calibration
    graph = calibration.graph if calibration else None
    try:
        arm = await asyncio.to_thread(load_arm, name, settings, graph if name == PATCHED else None)
        arm.require_same_signature(old.arm)
        if name == ORIGINAL and graph is not None and arm.sha256 != old.arm.sha256:
            raise ARMS_DIFFER("the hotfix was fitted on requests to the old file", "start the server again")
        await try_out(arm, old.arm)
    except AtpatchError:
        engine.metrics.reloaded(name, "refused")
        raise
    if name == PATCHED:
        arm.set_controls(engine.enabled, engine.threshold)
    lane = make_lane(arm, settings)
    lane.runs, lane.joined = old.runs, old.joined
    engine.lanes[name] = lane
    engine.metrics.reloaded(name, "done")
