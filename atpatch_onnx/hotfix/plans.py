"""From options to a `PatchPlan`: a hotfix where there is one, else a detector that needs no training."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rewriters.model.regular_files import check_source
from rewriters.plan import BenignPair, ControlInputs, Detector, OnnxGraph, PatchPlan, SitePlan, Static, Statistic
from rewriters.sites import Site

from ..errors import BAD_OPTION, NO_SUCH_FILE
from .file import SUFFIX, Accept, Benign, Hotfix, Mend, Passes, Values

__all__ = [
    "STATISTIC_THRESHOLD",
    "STATISTIC_WORTH",
    "UNTRAINED",
    "DetectorKind",
    "Options",
    "beside",
    "fitted_plan",
    "untrained_plan",
]

DetectorKind = Literal["static", "statistic", "onnx"]

STATISTIC_THRESHOLD = 8.0
"""Robust z-score above which the training-free detector flags a column. Conservative: without data the false-flag rate
of a model is unknown, and a map of a few dozen columns passes 4 or 5 by chance alone.
"""

UNTRAINED = Statistic(rows=8, by_values=True)
"""The training-free detector of a model of which nothing is known. Eight rows: the mean of fewer hangs on single rows,
as a decoder's last tokens show, to which only their neighbours have looked.
"""

STATISTIC_WORTH = (
    "On short texts (SST-2, four models) it flagged 2 to 20 of 100 clean ones, on longer ones 35 to 76; where a rare"
    " word is the trigger it left 14 of 100 attacks and cost up to .7 points of accuracy (with --passes two 8 attacks"
    " and up to 2 points)."
)
"""What the training-free detector was seen to do, for people who use it."""

ONNX_THRESHOLD = 0.5
"""For a user's detector, whose scores are taken for probabilities unless a threshold is given."""


@dataclass(frozen=True)
class Options:
    """Options of `patch_model` that shape the plan, as given; None: not given."""

    detector: DetectorKind | None
    columns: Sequence[int] | None
    detector_model: Path | None
    threshold: float | None
    benign: Benign | None
    values: Values | None
    gating: Literal["if", "none"]
    telemetry: bool
    controls: ControlInputs
    force: bool
    passes: Passes | None = None
    mend: Mend | None = None
    accept: Accept | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise BAD_OPTION(f"threshold {self.threshold} is not a finite number")
        if self.columns is not None and self.detector != "static":
            raise BAD_OPTION(
                "columns go with the static detector only", "add --detector static, or leave --columns out"
            )
        if self.columns is None and self.detector == "static":
            raise BAD_OPTION(
                "the static detector needs columns", "add --columns 3,7, or --columns none for a patch that never fires"
            )
        if any(column < 0 for column in self.columns or ()):
            raise BAD_OPTION("a column is a position from 0 up")
        if (self.detector_model is None) != (self.detector != "onnx"):
            raise BAD_OPTION("the onnx detector and its file go together", "give --detector onnx --detector-model FILE")


def beside(model: Path) -> Path | None:
    """`model.hotfix` beside `model.onnx` or `model.patched.onnx`, if it is there."""
    candidate = model.with_name(model.name.removesuffix(".onnx").removesuffix(".patched") + SUFFIX)
    return candidate if os.path.lexists(candidate) else None


def fitted_plan(hotfix: Hotfix, sites: Sequence[Site], weights: str, options: Options) -> PatchPlan:
    """The plan of a hotfix with what the options override."""
    return hotfix.plan(
        sites,
        weights,
        gating=options.gating,
        telemetry=options.telemetry,
        controls=options.controls,
        threshold=options.threshold,
        benign=options.benign,
        values=options.values,
        passes=options.passes,
        mend=options.mend,
        accept=options.accept,
        force=options.force,
    )


def untrained_plan(sites: Sequence[Site], options: Options, groups: tuple[tuple[str, ...], ...] = ()) -> PatchPlan:
    """The same detector and benign reference at every site, from no data at all.

    The benign value is the mean of the sample's own unflagged values, the benign attention a multiple of uniform.

    Args:
        groups: see `rewriters.finding.token_groups.token_groups`.
    """
    detector, threshold = _detector(options)
    pair = BenignPair(np.array([_level(options.benign)], np.float32), None, own_values=options.values == "own")
    return PatchPlan(
        {site.id: SitePlan(detector, pair) for site in sites},
        threshold=threshold if options.threshold is None else options.threshold,
        gating=options.gating,
        telemetry=options.telemetry,
        controls=options.controls,
        passes=options.passes or "one",
        groups=groups,
        mend=options.mend or "redistribute",
        accept=options.accept or "always",
    )


def _detector(options: Options) -> tuple[Detector, float]:
    if options.detector == "static":
        return Static(tuple(sorted(set(options.columns or ())))), 0.0
    if options.detector_model is not None:
        try:
            return OnnxGraph(check_source(options.detector_model).read_bytes()), ONNX_THRESHOLD
        except OSError as error:
            raise NO_SUCH_FILE(f"{options.detector_model} cannot be read: {error.strerror}") from error
    return UNTRAINED, STATISTIC_THRESHOLD


def _level(benign: Benign | None) -> float:
    if benign is None or benign == "mean":
        return 1.0
    if benign == "zero":
        return 0.0
    if not 0 <= benign < math.inf:
        raise BAD_OPTION(f"benign level {benign!r} is neither mean, zero nor a number from 0 up")
    return float(benign)
