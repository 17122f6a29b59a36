"""Healing with detectors that read the answer row: which tokens they flag, and that silent ones change no bit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.plan import OneClass, PatchPlan
from rewriters.sites import Site
from tests.exports import export_model

from ..decoders import HEADS, PAST, PRESENT, VOCABULARY, WIDTH, causal_lm
from ..half_precision import feeds_for, halved
from ..running import run_all, unchanged
from .chats import FAMILIES, chat, healing, searched

LENGTH = 7
LEFT, RIGHT = slice(0, 2), slice(-2, None)
NEVER = 1e6


def by_answer_row(sites: tuple[Site, ...], threshold: float, heads: int = HEADS, **options: object) -> PatchPlan:
    """Scores are the sum over heads and sites of log1p(entry of the answer row × number of columns that it sees)."""
    mean, weight = np.zeros(heads, np.float32), np.ones((heads, 1), np.float32)
    detector = OneClass(mean, weight, squared=False, offset=0.0, probes=(), answer_row=True)
    return healing(sites, detector, **{"threshold": threshold, "joint": "sum", **options})


def prompt(padded: slice) -> dict[str, np.ndarray]:
    """Two prompts; the second one is padded."""
    mask = np.ones((2, LENGTH), np.int64)
    mask[1, padded] = 0
    ids = np.random.default_rng(2).integers(3, VOCABULARY, (2, LENGTH))
    past = {name: np.zeros((2, HEADS, 0, WIDTH // HEADS), np.float32) for name in PAST}
    return {"input_ids": ids, "attention_mask": mask, **past}


def scores(family: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The same sum from the maps of the torch model, -inf at padding and at the first valid token."""
    ids, mask = (torch.from_numpy(feeds[name]) for name in ("input_ids", "attention_mask"))
    positions = (mask.cumsum(1) - 1).clip(min=0)
    with torch.no_grad():
        given = {"position_ids": positions} if family == "gpt2" else {}
        maps = causal_lm(family)(input_ids=ids, attention_mask=mask, output_attentions=True, **given).attentions
    total = np.zeros(mask.shape, np.float64)
    for a in (one.double().numpy() for one in maps):
        for sample, real in enumerate(feeds["attention_mask"] != 0):
            last = np.flatnonzero(real)[-1]
            row = a[sample, :, last] * real
            total[sample] += np.log1p(row * real[: last + 1].sum()).sum(0)
            total[sample, ~real], total[sample, np.flatnonzero(real)[0]] = -np.inf, -np.inf
    return total


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("padded", [LEFT, RIGHT], ids=["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_flagged_changes_no_bit(family: str, padded: slice, gating: str) -> None:
    model, sites = searched(family)
    silent = patch(model, by_answer_row(sites, NEVER, gating=gating), sites)
    assert unchanged(model, silent, prompt(padded)).keys() == {"logits", *PRESENT}
    for one, other in zip(chat(model), chat(silent), strict=True):
        assert all(other[name].tobytes() == one[name].tobytes() for name in one)


@pytest.mark.parametrize("padded", [LEFT, RIGHT], ids=["left", "right"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_flags_are_those_of_the_maps(family: str, padded: slice) -> None:
    model, sites = searched(family)
    want = scores(family, prompt(padded))
    finite = np.sort(want[np.isfinite(want)])
    for at in (len(finite) // 4, len(finite) // 2, len(finite) - 1):
        threshold = float(finite[at - 1] + finite[at]) / 2
        got = run_all(patch(model, by_answer_row(sites, threshold), sites), prompt(padded))
        np.testing.assert_array_equal(got[f"atpatch_columns/{sites[0].id}"], want > threshold)


@pytest.mark.parametrize("how", ["all", "float-inputs"])
def test_half_precision(how: str) -> None:
    model, whole = halved(how, "llama", "torchscript"), onnx.load(export_model("llama", "torchscript").path)
    sites, others = find_sites(model)[0], find_sites(whole)[0]
    heads = sites[0].heads
    assert heads is not None
    feeds, exact = feeds_for(model, "llama", "torchscript"), feeds_for(whole, "llama", "torchscript")
    before = unchanged(model, patch(model, by_answer_row(sites, NEVER, heads), sites), feeds)
    for threshold in (3.0, 4.0, 5.0):
        got = run_all(patch(model, by_answer_row(sites, threshold, heads), sites), feeds)
        want = run_all(patch(whole, by_answer_row(others, threshold, heads), others), exact)
        flags, expected = got[f"atpatch_columns/{sites[0].id}"], want[f"atpatch_columns/{others[0].id}"]
        np.testing.assert_array_equal(flags, expected, err_msg=str(threshold))
        assert 0 < expected.sum() < expected.size, threshold
        for name in before:
            scale = np.abs(want[name]).max()
            np.testing.assert_allclose(got[name].astype(np.float32), want[name], atol=0.03 * scale, rtol=0)
