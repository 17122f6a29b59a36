"""Hotfixes of the toy models: each is fitted once, however many tests look at it."""

from __future__ import annotations

import functools

from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.hotfix.file import Hotfix

__all__ = ["fit_toy"]


def fit_toy(padded: bool, clean: bool = True, *, passes: str = "auto", every: int | str = 1) -> Hotfix:
    """The hotfix of a toy, which no test may change; `clean`: from further clean rows, too."""
    return _fit_toy(padded, clean, passes, every)


@functools.cache
def _fit_toy(padded: bool, clean: bool, passes: str, every: int | str) -> Hotfix:
    from ..toy_backdoor import toy  # needs torch, without which its tests are skipped

    made = toy(padded)
    return fit(made.model, made.debug, made.clean if clean else None, passes=passes, every=every, threads=1)
