"""Closing up without a cache: the model's own answer, in torch, to the request without its flagged tokens, padded on
its left.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from transformers import AutoConfig, AutoModel

from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.finding.key_value import HealingPlaces, healing_places
from rewriters.plan import PatchPlan, Static, Statistic
from rewriters.sites import Site
from tests.exports import ATTENTION, EXPORTERS, build_model, export_model

from ..decoders import quiet
from ..running import run_all, unchanged
from .chats import flags_of, healing
from .healed import gap_of, moved

VOCABULARY, LENGTH = 99, 9
WAYS = ("input", "counted", "pooled")
"""Where positions come from; "pooled": the mask also says where the answer is read."""


def closing(sites: tuple[Site, ...], *columns: int, **options: object) -> PatchPlan:
    return healing(sites, Static(columns), closes_up=True, **options)


def shorter(feeds: dict[str, np.ndarray], flags: np.ndarray) -> dict[str, np.ndarray]:
    """The request without its flagged tokens: padding of id 0 stands in front of it."""
    valid = feeds["attention_mask"] != 0
    gap = gap_of(flags, valid)
    ids = np.where(gap, 0, moved(feeds["input_ids"], flags, valid))
    return {"input_ids": ids, "attention_mask": (valid & ~gap).astype(np.int64)}


def in_torch(model: Any, feeds: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        found = model(*(torch.from_numpy(array) for array in feeds.values()))[0]
    answer: np.ndarray = found.numpy()
    return answer


def assert_near(got: np.ndarray, want: np.ndarray, shown: np.ndarray) -> None:
    np.testing.assert_allclose(got[shown], want[shown], atol=1e-4 * np.abs(want[shown]).max(), rtol=0)


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_exports_with_padding_behind(family: str, exporter: str, attention: str, gating: str) -> None:
    export = export_model(family, exporter, attention)
    model = onnx.load(export.path)
    sites = find_sites(model)[0]
    feeds = export.feeds(4, padded=True)
    silent = patch(model, closing(sites, gating=gating), sites)
    assert unpatch(silent) == model
    before = unchanged(model, silent, feeds)
    got = run_all(patch(model, closing(sites, 2, 3, gating=gating), sites), feeds)
    flags = flags_of(got)
    assert flags.any(1).all() and not (feeds["attention_mask"] != 0).all()
    less = shorter(feeds, flags)
    shown = less["attention_mask"] != 0
    want = in_torch(build_model(family, attention), less)
    assert_near(got["last_hidden_state"], want, shown)
    assert np.abs(before["last_hidden_state"] - want)[shown].max() > 1e-2


@pytest.mark.parametrize("depth", [1, 2])
def test_samples_with_flags_of_their_own_in_front_of_padding(depth: int) -> None:
    """Samples without a flag keep every bit, also where only an early layer detects."""
    export = export_model("llama", "torchscript")
    model = onnx.load(export.path)
    sites = find_sites(model)[0]
    feeds = export.feeds(4, padded=True)
    feeds["attention_mask"] = feeds["attention_mask"][:, ::-1].copy()
    plan = healing(sites[:depth], Statistic(exempt=(), floor=0.05), closes_up=True)
    patched = patch(model, plan, sites)
    for threshold in np.geomspace(8, 0.1, 30):
        got = run_all(patched, {**feeds, "atpatch_threshold": np.array(threshold, np.float32)})
        flags = flags_of(got)
        if flags.any():
            break
    quiet_ones = ~flags.any(1)
    assert quiet_ones.any() and not quiet_ones.all()
    before = run_all(model, feeds)["last_hidden_state"]
    assert got["last_hidden_state"][quiet_ones].tobytes() == before[quiet_ones].tobytes()
    less = shorter(feeds, flags)
    assert_near(got["last_hidden_state"], in_torch(build_model("llama"), less), less["attention_mask"] != 0)


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("way", WAYS[:2])
def test_positions_are_those_of_the_shorter_request(way: str, padding: str, gating: str) -> None:
    """GPT-2's positions are learned, so that a wrong one shows."""
    model, feeds = onnx.load_from_string(exported(way)), requests(padding)
    sites = find_sites(model)[0]
    given = {**feeds, "position_ids": positions(feeds["attention_mask"])}
    unchanged(model, patch(model, closing(sites, gating=gating), sites), given)
    got = run_all(patch(model, closing(sites, 3, 5, gating=gating), sites), given)
    less = shorter(feeds, flags_of(got))
    assert flags_of(got).any(1).all()
    own = {**less, "position_ids": positions(less["attention_mask"])}
    assert_near(got["answer"], in_torch(Wrapped(way), own), less["attention_mask"] != 0)


def test_a_mask_that_says_where_the_answer_is_read_hides_nothing() -> None:
    """The number of its ones would be smaller: copies of the first token stand in the gap, as in caches."""
    model, feeds = onnx.load_from_string(exported("pooled")), requests("right")
    assert hides(model) is None
    sites = find_sites(model)[0]
    got = run_all(patch(model, closing(sites, 3), sites), feeds)
    valid = feeds["attention_mask"] != 0
    want = run_all(model, {**feeds, "input_ids": moved(feeds["input_ids"], flags_of(got), valid)})
    assert_near(got["answer"], want["answer"], np.ones(len(valid), bool))


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.FLOAT, TensorProto.BOOL])
def test_types_of_masks(kind: int) -> None:
    export = export_model("llama", "torchscript")
    model = onnx.load(export.path)
    value = next(one for one in model.graph.input if one.name == "attention_mask")
    value.type.tensor_type.elem_type = kind
    sites, feeds = find_sites(model)[0], export.feeds(4, padded=True)
    typed = {**feeds, "attention_mask": feeds["attention_mask"].astype(helper.tensor_dtype_to_np_dtype(kind))}
    unchanged(model, patch(model, closing(sites), sites), typed)
    got = run_all(patch(model, closing(sites, 2), sites), typed)
    less = shorter(feeds, flags_of(got))
    assert_near(got["last_hidden_state"], in_torch(build_model("llama"), less), less["attention_mask"] != 0)


def hides(model: onnx.ModelProto) -> object:
    found = healing_places(model)
    assert isinstance(found, HealingPlaces)
    return found.hides


def requests(padding: str) -> dict[str, np.ndarray]:
    """Three samples, two of them padded."""
    mask = np.ones((3, LENGTH), np.int64)
    for row, count in ((1, 1), (2, 3)):
        mask[row, :count] = 0
    mask = mask if padding == "left" else mask[:, ::-1].copy()
    ids = np.random.default_rng(5).integers(3, VOCABULARY, mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask}


def positions(mask: np.ndarray) -> np.ndarray:
    """As transformers counts them."""
    counted: np.ndarray = np.maximum(mask.cumsum(1) - 1, 0)
    return counted


class Wrapped(torch.nn.Module):
    """GPT-2 without a cache; see `WAYS`."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        with torch.random.fork_rng(), quiet():
            torch.manual_seed(0)
            sizes = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY}
            config = AutoConfig.for_model("gpt2", **sizes, use_cache=False)
            self.inner = AutoModel.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
        for weight in self.inner.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, 0, 0.4, generator=torch.Generator().manual_seed(len(weight)))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, given: torch.Tensor | None = None) -> tuple[Any, ...]:
        counted = torch.clamp(mask.cumsum(1) - 1, min=0)
        own = given if self.way == "input" else counted if self.way == "counted" else None
        states = self.inner(input_ids=ids, attention_mask=mask, position_ids=own).last_hidden_state
        if self.way != "pooled":
            return (states,)
        return (states[torch.arange(len(ids)), mask.sum(1) - 1],)


@cache
def exported(way: str) -> bytes:
    feeds = requests("left")
    names = ["input_ids", "attention_mask"]
    if way == "input":
        feeds, names = {**feeds, "position_ids": positions(feeds["attention_mask"])}, [*names, "position_ids"]
    buffer = io.BytesIO()
    with quiet():
        torch.onnx.export(
            Wrapped(way),
            tuple(torch.from_numpy(array) for array in feeds.values()),
            buffer,
            dynamo=False,
            input_names=names,
            output_names=["answer"],
            dynamic_axes={**{name: {0: "batch", 1: "sequence"} for name in names}, "answer": {0: "batch"}},
            opset_version=17,
        )
    return buffer.getvalue()
