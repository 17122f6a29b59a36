"""The table as data: models, shapes, kinds of requests, and the bounds they are held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["LOAD", "PAPER", "PEAK", "ROWS", "SIZE", "THREADS", "Request", "Row"]

THREADS = (1, 2)

LOAD, SIZE, PEAK = {"one": 1.10, "two": 1.25}, {"one": 1.02, "two": 1.02}, {"one": 1.05, "two": 1.15}
"""Bounds on load time, file size and peak memory, patched / original, by the passes of the patch."""

PAPER = {"clean": 1.2, "flagged": 2.6}
"""What the paper reports for its hooks in torch, on a forward pass of half a millisecond."""


@dataclass(frozen=True)
class Request:
    """A kind of request.

    Attributes:
        name: for the table.
        share: of the batch that is flagged, one sample at least; 0: nothing is.
        bound: on the median ratio patched / original.
    """

    name: str
    share: float
    bound: float


@dataclass(frozen=True)
class Row:
    """A model with its shapes.

    Attributes:
        model: key of `builders.BUILDERS`.
        shapes: sizes by the graph's axis names.
        requests: what is timed at each shape.
        passes: of the patch.
        torch: the torch model can be timed beside it, with the paper's form as hooks.
        every: the detectors read the rows whose number this divides (`rewriters.plan.Profile`).
    """

    name: str
    model: str
    shapes: tuple[Mapping[str, int], ...]
    requests: tuple[Request, ...]
    passes: Literal["one", "two"] = "one"
    torch: bool = False
    every: int = 1


def _texts(*sizes: tuple[int, int]) -> tuple[Mapping[str, int], ...]:
    return tuple({"batch": batch, "sequence": length} for batch, length in sizes)


def _one(clean: float, flagged: float) -> tuple[Request, ...]:
    return Request("nothing flagged", 0.0, clean), Request("flagged", 1.0, flagged)


_TWO = (
    Request("nothing flagged", 0.0, 1.03),
    Request("one of eight flagged", 0.125, 1.20),
    Request("flagged", 1.0, 2.10),
)

ROWS: tuple[Row, ...] = (
    Row("BERT-base, random weights", "bert-base", _texts((1, 128), (8, 128), (1, 512)), _one(1.02, 1.05), torch=True),
    Row("MiniLM-L6", "minilm", _texts((1, 64), (1, 128), (1, 256), (8, 128)), _one(1.02, 1.06), torch=True),
    Row("MiniLM-L6, positions extended", "minilm-2048", _texts((1, 2048)), _one(1.04, 1.08)),
    Row(
        "MiniLM-L6, positions extended, detectors of every 8th row",
        "minilm-2048",
        _texts((1, 2048)),
        _one(1.04, 1.08),
        every=8,
    ),
    Row("ViT-base, random weights, 197 tokens", "vit-base", ({"batch": 1}, {"batch": 8}), _one(1.02, 1.05), torch=True),
    Row("MiniLM-L6, int8 (dynamic)", "minilm-int8", _texts((1, 128), (8, 128)), _one(1.03, 1.10)),
    Row(
        "MiniLM-L6, fused: Attention, SkipLayerNormalization, BiasGelu",
        "minilm-fused",
        _texts((1, 128), (1, 512)),
        _one(1.05, 1.10),
    ),
    Row(
        "MiniLM-L6, fused: Attention and so on, detectors of every 4th row",
        "minilm-fused",
        _texts((1, 128), (1, 512)),
        _one(1.05, 1.10),
        every=4,
    ),
    Row(
        "MiniLM-L6, fused: SkipLayerNormalization, BiasGelu",
        "minilm-fused-dynamo",
        _texts((1, 128), (1, 512)),
        _one(1.05, 1.10),
    ),
    Row("MiniLM-L6, two passes", "minilm", _texts((8, 128)), _TWO, passes="two"),
    Row("BERT-base, random weights, two passes", "bert-base", _texts((8, 128)), _TWO, passes="two"),
)
