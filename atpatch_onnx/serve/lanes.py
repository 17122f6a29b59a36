"""An arm with its batching and its time limit."""

from __future__ import annotations

from ..signing.verifier import verify
from .arm_graph import ArmGraph
from .arms import ORIGINAL, PATCHED, Arm, ArmName
from .batching import Batcher
from .settings import Settings

__all__ = ["load_arm", "make_lane"]


def load_arm(name: ArmName, settings: Settings, graph: ArmGraph | None = None) -> Arm:
    """Load the model of one arm. In mode shadow the patched arm's threads get a low priority.

    Args:
        graph: what to load; None: the arm's file.

    Raises:
        AtpatchError: as `Arm`; ATP094-ATP096 where a signature is asked for.
    """
    path = settings.original if name == ORIGINAL else settings.patched
    model = path if graph is None else graph
    assert model is not None  # the command line asks for a patched model unless requests give one
    if settings.verify_key is not None and graph is None:
        signed = settings.patched if settings.restored else path
        assert signed is not None
        verify(signed, key=settings.verify_key)
    return Arm(
        name,
        model,
        threads=settings.threads,
        workers=settings.workers,
        nice=name == PATCHED and settings.mode == "shadow",
    )


def make_lane(arm: Arm, settings: Settings) -> Batcher:
    """An arm with its batching and its time limit: clients wait for the original; shadow runs may take longer."""
    timeout = settings.limits.answer_seconds if arm.name == ORIGINAL else settings.patched_seconds
    return Batcher(arm, settings.batch_rows, settings.batch_delay, timeout)
