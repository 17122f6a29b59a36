"""An arm with its batching and its time limit."""

from __future__ import annotations

from pathlib import Path

from rewriters.editing.patcher import is_patched
from rewriters.model import io as model_io

from ..errors import SIGNATURE_INVALID
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
        _require_signature(name, signed, settings.verify_key)
    return Arm(
        name,
        model,
        threads=settings.threads,
        workers=settings.workers,
        nice=name == PATCHED and settings.mode == "shadow",
        output_kind=settings.output_kind,
    )


def _require_signature(name: ArmName, path: Path, key: Path) -> None:
    """The file is as somebody with the key signed it, and a signed original does not stand in for the patched model."""
    verify(path, key=key)
    if name == PATCHED and not is_patched(model_io.load(path)):
        raise SIGNATURE_INVALID(
            f"{path} has a good signature, and no patch", "give the patched model; the original may not take its place"
        )


def make_lane(arm: Arm, settings: Settings) -> Batcher:
    """An arm with its batching and its time limit: clients wait for the original; shadow runs may take longer."""
    timeout = settings.limits.answer_seconds if arm.name == ORIGINAL else settings.patched_seconds
    return Batcher(arm, settings.batch_rows, settings.batch_delay, timeout)
