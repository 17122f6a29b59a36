"""Which plan a patched graph was made with, and the words of its columns: what pictures of attention need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rewriters.editing.patcher import is_patched, stamp
from rewriters.model.forms import Loaded, PathLike
from rewriters.plan import PatchPlan
from rewriters.sites import Site

from ..errors import HOTFIX_MISMATCH, DataError, PlanError
from ..hotfix.file import Hotfix
from ..hotfix.plans import hotfix_next_to
from ..inference.datasets import Arrays
from ..inspection.encoder_decoder import patched_file
from .exemplar import Exemplar

if TYPE_CHECKING:
    from ..inference.tokenizer import TextEncoder

__all__ = ["patched_in", "words_of"]


def patched_in(
    original: Loaded, patched: Loaded, sites: Sequence[Site], hotfix: Hotfix | PathLike | None
) -> PatchPlan | None:
    """What was patched in, by the digest in the stamp; None where it cannot be found.

    Raises:
        AtpatchError: ATP060 where the given hotfix is another.
    """
    if isinstance(hotfix, (str, os.PathLike)):
        hotfix = Hotfix.load(hotfix)
    stamped = stamp(patched.proto).get("hotfix") if is_patched(patched.proto) else None
    if hotfix is None:
        if not stamped or not isinstance(original.source, (str, os.PathLike)):
            return None
        hotfix = _beside(patched_file(original.source), stamped)
        if hotfix is None:
            return None
    elif stamped and hotfix.digest != stamped:
        raise HOTFIX_MISMATCH(
            f"the patched model was not made with this hotfix: stamp {stamped[:16]}, hotfix {hotfix.digest[:16]}"
        )
    plan = hotfix.plan(sites, None, force=True)
    made = set(stamp(patched.proto).get("sites", "").split())
    passes = stamp(patched.proto).get("passes", plan.passes)
    return PatchPlan(
        {name: site for name, site in plan.sites.items() if name in made},
        plan.threshold,
        passes="two" if passes == "two" else "one",
    )


def _beside(model: Path, digest: str) -> Hotfix | None:
    """The hotfix next to the model if it has that digest, else None, since pictures are no reason to fail."""
    path = hotfix_next_to(model)
    try:
        hotfix = None if path is None else Hotfix.load(path)
    except (PlanError, DataError):
        return None
    return hotfix if hotfix is not None and hotfix.digest == digest else None


def words_of(encoder: TextEncoder, inputs: Arrays, shown: Exemplar) -> tuple[str, ...]:
    """Of the input that holds a token for each column: the first with whole numbers beyond the 0 and 1 of masks and
    types.
    """
    columns = {view.flagged.size for view in shown.sites}
    for array in inputs.values():
        if array.ndim == 1 and array.dtype.kind in "iu" and array.size in columns and array.max() > 1:
            return tuple(encoder.word(int(token)) for token in array)
    return ()
