"""How each kind of detector is trained on labeled columns, and how its scores are computed.

One module for each kind; all follow the protocol `Recipe`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from rewriters.plan import ValueNorms
from rewriters.sites import Site

from .recipe import PROBES, Recipe

__all__ = ["PROBES", "Recipe", "make_recipe"]


def make_recipe(
    kind: str,
    sites: Sequence[Site],
    rows: int,
    columns: int,
    seed: int,
    every: int = 1,
    norms: Mapping[str, ValueNorms] = MappingProxyType({}),
    answer_row: bool = False,
) -> Recipe:
    """The recipe of a kind of `detectors.TRAINABLE`.

    Args:
        rows, columns: of the train part, to limit what is kept in memory.
        every: of a `profile`, see `Profile`.
        norms: of a `profile`, site id → the norms it reads too; the other sites read attention only.
        answer_row: of a `profile`, see `Profile`; for causal decoders. `every` is 1 then.
    """
    from .cnn import CnnRecipe
    from .profile import ProfileRecipe
    from .static import StaticRecipe

    if kind == "profile":
        return ProfileRecipe(sites, rows, columns, seed, every, norms, answer_row)
    kinds: Mapping[str, Callable[..., Recipe]] = {"cnn": CnnRecipe, "static": StaticRecipe}
    return kinds[kind](sites, rows, columns, seed)
