"""Fit a hotfix on rows of live requests: the function behind `serve --calibrate`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Unpack

from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io

from ...hotfix.file import Hotfix
from ...inference.datasets import Arrays
from ...inference.padding import MASK
from ..fitter import fit
from ..options import FitKeywords, Progress
from .collector import Row
from .joining import join_rows

__all__ = ["TRIM", "data_of_rows", "fit_on_traffic"]

TRIM = 0.02
"""Share of the rows that may be attacks."""


def data_of_rows(model: str | os.PathLike[str], rows: Sequence[Row]) -> Arrays:
    """Rows as one data set for the model at a path, texts padded to one width.

    Raises:
        AtpatchError: ATP056 without a row, and those of reading the model.
    """
    masks = {site.key_mask for site in find_sites(model_io.load(model))[0] if site.key_mask is not None}
    return join_rows(rows, masks.pop() if len(masks) == 1 else MASK)[0]


def fit_on_traffic(
    model: str | os.PathLike[str],
    rows: Sequence[Row],
    *,
    progress: Progress | None = None,
    **options: Unpack[FitKeywords],
) -> Hotfix:
    """A `oneclass` hotfix, fitted on rows of which a few may be attacks.

    Args:
        model: path of the original model.
        rows: as `Collector` takes them.
        progress: called with the step, how much of it is done, and how much there is.
        options: fields of `FitOptions`; by default detector "oneclass" and trim `TRIM`.

    Raises:
        AtpatchError: those of `fit`; ATP056 where the rows are too few.
    """
    wanted: FitKeywords = {"detector": "oneclass", "trim": TRIM, **options}
    return fit(model, clean=data_of_rows(model, rows), progress=progress, **wanted)
