"""Which sites detect for healing where there is no hotfix that says it: all that can, of those that are chosen."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from rewriters.editing.healing import not_healable
from rewriters.finding.cache_branches import find_merged
from rewriters.finding.key_value import HealingPlaces, Unhealable, healing_by_input, healing_places
from rewriters.sites import Site

from ..errors import NOT_ADMITTED

__all__ = ["Groups", "judging"]

Groups = tuple[tuple[str, ...], ...]
"""Ids of sites, group by group."""


def judging(
    model: onnx.ModelProto, sites: Sequence[Site], chosen: Sequence[Site]
) -> tuple[Groups, HealingPlaces | None]:
    """The sites that detect, and where the model is healed. Of a merged decoder one group for each branch, and no
    places, since they are other ones in each.

    Args:
        sites: all sites of the model.

    Raises:
        AtpatchError: ATP023 where nothing can be healed, or no chosen site can detect.
    """
    merged = find_merged(model, sites) if any(site.where for site in chosen) else None
    if merged is None:
        found, places = _in_one_body(model, chosen)
        return (tuple(site.id for site in found),), places
    names, groups = {site.id for site in chosen}, []
    for branch in merged.branches:
        here = [site for site in branch.sites if branch.ids[site.id] in names]
        if here:
            groups.append(tuple(branch.ids[site.id] for site in _in_one_body(branch.model, here)[0]))
    return tuple(groups), None


def _in_one_body(model: onnx.ModelProto, chosen: Sequence[Site]) -> tuple[list[Site], HealingPlaces]:
    for places in healing_by_input(model):
        if isinstance(places, HealingPlaces):
            found = [site for site in chosen if site.id in places.judged]
            if found:
                return found, places
    if isinstance(none := healing_places(model), Unhealable):
        raise not_healable(none)
    raise NOT_ADMITTED(
        "none of the chosen sites shows which of its columns are the new tokens, so none can detect for healing",
        "choose other sites, or redistribute instead (--mend redistribute)",
    )
