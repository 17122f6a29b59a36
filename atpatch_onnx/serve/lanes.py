"""An arm with its batching and its time limit."""

from __future__ import annotations

from pathlib import Path

from ..errors import BAD_OPTION, SIGNATURE_INVALID
from ..signing.verifier import verify
from .arm_graph import ArmGraph, read_graph
from .arms import ORIGINAL, PATCHED, Arm, ArmName
from .batching import Batcher
from .settings import Settings

__all__ = ["load_arm", "make_lane"]


def load_arm(name: ArmName, settings: Settings, graph: ArmGraph | None = None) -> Arm:
    """Load the model of one arm. In mode shadow the patched arm's threads get a low priority.

    Args:
        graph: what to load; None: the arm's file.

    Raises:
        AtpatchError: as `Arm`; ATP094-ATP096 where a signature is asked for; ATP060 where alarms are to be refused and
            the patched model raises none.
    """
    if graph is None:
        path = settings.original if name == ORIGINAL else settings.patched
        assert path is not None  # the command line asks for a patched model unless requests give one
        graph = read_graph(path) if settings.verify_key is None else _read_signed(name, path, settings)
    arm = Arm(
        name,
        graph,
        threads=settings.threads,
        workers=settings.workers,
        nice=name == PATCHED and settings.mode == "shadow",
        output_kind=settings.output_kind,
    )
    if name == PATCHED and settings.on_alarm == "refuse" and not arm.alarm:
        raise BAD_OPTION(
            f"{graph.path} raises no alarms, so none can be refused",
            "patch with a hotfix of 'fit --alarm', or leave out --on-alarm",
        )
    return arm


def _read_signed(name: ArmName, path: Path, settings: Settings) -> ArmGraph:
    """The graph, as somebody with the key signed it; and a signed original does not stand in for the patched model."""
    signed = settings.patched if settings.restored else path
    assert signed is not None and settings.verify_key is not None
    verify(signed, key=settings.verify_key)
    graph = read_graph(path)
    if name == PATCHED and not graph.stamped:
        raise SIGNATURE_INVALID(
            f"{path} has a good signature, and no patch", "give the patched model; the original may not take its place"
        )
    return graph


def make_lane(arm: Arm, settings: Settings) -> Batcher:
    """An arm with its batching and its time limit: clients wait for the original; shadow runs may take longer."""
    timeout = settings.limits.answer_seconds if arm.name == ORIGINAL else settings.patched_seconds
    return Batcher(arm, settings.batch_rows, settings.batch_delay, timeout)
