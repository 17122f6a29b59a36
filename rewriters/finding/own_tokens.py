"""Sites whose columns are the tokens of each request, one after another, and whose rows are the last of these.

Only where the graph proves it:

1. in the main graph, with one map for each sample;
2. GroupQueryAttention, by the operator's definition;
3. self-attention with a padding mask among the graph's inputs, or in a group of `token_groups`;
4. attention of a decoder, with a cache or without, whose last columns are the new tokens (see `key_value`).

Quantized products are left out: another reader of their maps changes how they round.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from ..sites import Site
from .key_value import HealingPlaces, healing_by_input
from .token_groups import token_groups

__all__ = ["own_token_sites"]

_OWN_LENGTHS = "GroupQueryAttention"


def own_token_sites(model: onnx.ModelProto, sites: Sequence[Site], chosen: Sequence[Site]) -> list[Site]:
    """Those of the chosen sites, in their order.

    Args:
        sites: all sites of the model.
    """
    inside = [site for site in chosen if not site.where and site.layout.samples_lead]
    inside = [site for site in inside if site.quantizer is None and site.map_scale is None]
    proven = {site.id for site in inside if site.form == _OWN_LENGTHS or (site.self_attention and site.key_mask)}
    if len(proven) < len(inside):
        for healing in healing_by_input(model):
            proven.update(healing.judged if isinstance(healing, HealingPlaces) else ())
    if any(site.self_attention and site.id not in proven for site in inside):
        grouped = {name for group in token_groups(model, sites) for name in group}
        proven.update(site.id for site in inside if site.self_attention and site.id in grouped)
    return [site for site in inside if site.id in proven]
