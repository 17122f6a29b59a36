"""End to end: patched graphs against the same model in torch, whose attention function is the joint form on the full
map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.model.io import load
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static
from tests.exports import EXPORTERS, build_model, export_model

from .running import run_all

COLUMNS = (1, 3)
LEVEL = 0.5
HOOKED = ("bert", "vit", "gpt2", "whisper", "llama")
"""Families whose attention goes through transformers' attention interface."""


def joint_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax, then flagged columns get LEVEL times uniform and the mean value of the unflagged columns that the row
    sees.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    elif getattr(module, "is_causal", False) and query.shape[2] > 1:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
    a = scores.softmax(-1)
    sees = (a > 0).any(1, keepdim=True)
    flagged = torch.zeros(a.shape[-1], dtype=torch.bool)
    flagged[[c for c in COLUMNS if c < len(flagged)]] = True
    hit, free = sees & flagged, sees & ~flagged
    share = (LEVEL * hit.sum(-1, keepdim=True) / sees.sum(-1, keepdim=True).clamp(min=1)).clamp(max=1)
    kept = a * ~flagged
    moved = kept * ((1 - share) / kept.sum(-1, keepdim=True).clamp(min=1e-30))
    refuge = free.to(a.dtype) @ value / free.sum(-1, keepdim=True).clamp(min=1)
    out = torch.where(hit.any(-1, keepdim=True) & free.any(-1, keepdim=True), moved @ value + share * refuge, a @ value)
    return out.transpose(1, 2), a


AttentionInterface.register("joint", joint_attention)
AttentionMaskInterface.register("joint", eager_mask)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", HOOKED)
def test_patched_graph_equals_patched_torch_model(family: str, exporter: str) -> None:
    export = export_model(family, exporter)
    model = load(export.path)
    sites, _ = find_sites(model)
    plan = PatchPlan({site.id: SitePlan(Static(COLUMNS), BenignPair(np.array([LEVEL], np.float32))) for site in sites})
    feeds = export.feeds(3, padded=True)
    got = run_all(patch(model, plan, sites), feeds)
    with torch.no_grad():
        want = build_model(family, "joint")(*(torch.from_numpy(array) for array in feeds.values()))
        plain = build_model(family, "eager")(*(torch.from_numpy(array) for array in feeds.values()))
    # Padded positions of the query side carry no meaning and differ between implementations.
    rows = next((mask.astype(bool) for name, mask in feeds.items() if name.endswith("attention_mask")), None)
    for array, expected, unpatched in zip(got.values(), want, plain, strict=True):
        keep = rows if rows is not None and rows.shape == array.shape[:2] else np.ones(array.shape[:2], bool)
        assert np.abs(unpatched.numpy() - expected.numpy())[keep].max() > 1e-2
        np.testing.assert_allclose(
            array[keep], expected.numpy()[keep], atol=1e-5 * np.abs(expected.numpy()).max(), rtol=0
        )
