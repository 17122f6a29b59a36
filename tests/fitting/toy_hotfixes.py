"""Hotfixes of the toy models: each is fitted once, however many tests look at it."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.hotfix.file import Hotfix

from ..kept import PACKAGE_SOURCES, cache_folder, kept, recipe

__all__ = ["fit_toy", "kept_hotfix"]

TESTS = Path(__file__).parents[1]


def fit_toy(padded: bool, clean: bool = True, *, passes: str = "auto", every: int | str = 1) -> Hotfix:
    """The hotfix of a toy, which no test may change; `clean`: from further clean rows, too."""
    return _fit_toy(padded, clean, passes, every)


@functools.cache
def _fit_toy(padded: bool, clean: bool, passes: str, every: int | str) -> Hotfix:
    from ..toy_backdoor import toy  # needs torch, without which its tests are skipped

    def fitted() -> Hotfix:
        made = toy(padded)
        return fit(made.model, made.debug, made.clean if clean else None, passes=passes, every=every, threads=1)

    return kept_hotfix(f"{padded}-{clean}-{passes}-{every}", fitted, __file__)


def kept_hotfix(name: str, fitted: Callable[[], Hotfix], *sources: str) -> Hotfix:
    """What `fitted` makes, for other workers too; made anew where anything changes that is installed, or the toys.

    Args:
        sources: the files that say what is fitted.
    """
    return Hotfix.load(kept(f"{_folder()}/{name}-{recipe(*sources)}.hotfix", lambda path: fitted().save(path)))


@functools.cache
def _folder() -> str:
    from torch.backends.cpu import get_cpu_capability  # another processor rounds otherwise

    toys = (TESTS / "toy_backdoor.py", TESTS / "toy_encoder.py")
    folder = f"hotfixes-{recipe(*PACKAGE_SOURCES, *toys)}-{get_cpu_capability().lower()}"
    for stale in cache_folder().glob("hotfixes-*"):
        if stale.name != folder:
            shutil.rmtree(stale, ignore_errors=True)
    return folder
