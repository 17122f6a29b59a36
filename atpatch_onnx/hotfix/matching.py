"""Which site of a model is which site of a hotfix, and whether it is the same model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewriters.sites import Site

from ..errors import HOTFIX_MISMATCH

if TYPE_CHECKING:
    from .file import Hotfix, HotfixSite

__all__ = ["matching_sites"]

SHOWN = 4
"""Differences in the message."""


def matching_sites(
    hotfix: Hotfix, sites: Sequence[Site], weights: str | None, force: bool
) -> list[tuple[HotfixSite, Site]]:
    """The sites of the hotfix, each with the model's.

    Args:
        sites: all sites of the model, in the finder's order.
        weights: digest of the model's weights; None skips that comparison.
        force: go on though fingerprints or weights differ; sites that the model lacks are left out.

    Raises:
        AtpatchError: ATP054 where the hotfix was made for another model.
    """
    found = _match(hotfix.sites, sites)
    differences = [
        _difference(mine, theirs) for mine, theirs in found if theirs is None or mine.fingerprint != theirs.fingerprint
    ]
    if weights is not None and weights != hotfix.weights:
        differences.append(f"weights: hotfix {hotfix.weights[:16]}, model {weights[:16]}")
    matched = [(mine, theirs) for mine, theirs in found if theirs is not None]
    if differences and not (force and matched):
        more = len(differences) - SHOWN
        shown = "; ".join(differences[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise HOTFIX_MISMATCH(shown, None if matched else "fit a hotfix on this model")
    return matched


def _match(mine: Sequence[HotfixSite], theirs: Sequence[Site]) -> list[tuple[HotfixSite, Site | None]]:
    """Pairs by id; where the model has no such id, by position, since an id comes from names and names mean little."""
    by_id = {site.id: site for site in theirs}
    taken = {site.id for site in mine if site.id in by_id}
    pairs: list[tuple[HotfixSite, Site | None]] = []
    for site in mine:
        other = by_id.get(site.id)
        if other is None and 0 <= site.layer < len(theirs) and theirs[site.layer].id not in taken:
            other = theirs[site.layer]
            taken.add(other.id)
        pairs.append((site, other))
    return pairs


def _difference(mine: HotfixSite, theirs: Site | None) -> str:
    return (
        f"site {mine.id}: hotfix {mine.fingerprint}, model"
        f" {'has no such site' if theirs is None else theirs.fingerprint}"
    )
