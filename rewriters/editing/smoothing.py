"""Which sites can be smoothed (see `subgraphs.smoothing`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from ..errors import NOT_ADMITTED, AtpatchError
from ..finding.own_tokens import own_token_sites
from ..plan import PatchPlan, Smoothing
from ..sites import Site

__all__ = ["unsmoothed"]


def unsmoothed(model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site]) -> Iterator[AtpatchError]:
    """Refuse to smooth sites whose rows are not proven to be the last of their columns.

    Args:
        sites: all sites of the model.
    """
    asked = [site for site in sites if site.id in plan.sites and isinstance(plan.sites[site.id].detector, Smoothing)]
    proven = {site.id for site in own_token_sites(model, sites, asked)} if asked else set()
    for site in asked:
        if site.id not in proven:
            yield NOT_ADMITTED(
                f"site {site.id}: the graph does not show that its rows are the last tokens of its columns, which"
                " smoothing needs",
                "leave it out (--exclude)",
            )
