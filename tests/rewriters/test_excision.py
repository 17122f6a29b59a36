"""Excision: a flagged request is answered as the original answers it without the flagged tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rewriters.errors import AtpatchError
from rewriters.excision import token_axis
from rewriters.patcher import patch, unpatch
from rewriters.plan import PatchPlan, SitePlan, Static

from .graphs import attention_block
from .test_exports import run_all
from .test_second_pass import EXPORTERS, open_export, two_pass

CUT = (2, 4)


def without(feeds: dict[str, np.ndarray], cut: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The request as a person would write it: tokens taken out, padding behind."""
    made = {name: np.zeros_like(array) for name, array in feeds.items()}
    for name, array in feeds.items():
        kept = np.delete(array, cut, axis=1)
        made[name][:, : kept.shape[1]] = kept
    return made


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """The tokens' axis has one name in all inputs and outputs, which neither exporter sees to of its own accord."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for value in [*made.graph.input, *made.graph.output]:
        _, tokens, *width = value.type.tensor_type.shape.dim
        tokens.dim_param = "tokens"
        for dim in width:
            dim.dim_value = 32
    return made


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", ["bert", "deberta-v2", "gpt2", "llama"])
def test_flagged_requests_are_answered_as_without_the_tokens(family: str, exporter: str) -> None:
    export, model, sites = open_export(family, exporter)
    model = named(model)
    patched = patch(model, two_pass(sites, family, SitePlan(Static(CUT)), mend="excise"), sites)
    onnx.checker.check_model(patched)
    feeds = export.feeds(4, padded=True)
    got, want, before = run_all(patched, feeds), run_all(model, without(feeds, CUT)), run_all(model, feeds)
    length = feeds["input_ids"].shape[1]
    kept = np.delete(np.arange(length), CUT)
    for name, array in want.items():
        # Behind its last token a row holds padding, of which nothing is asked.
        real = feeds["attention_mask"][:, kept] != 0
        np.testing.assert_allclose(got[name][:, kept][real], array[:, : len(kept)][real], atol=2e-5 * np.abs(array).max(), rtol=0)
        assert np.abs(got[name][:, kept][real] - before[name][:, kept][real]).max() > 1e-3
    assert unpatch(patched) == model


def test_rows_of_which_nothing_would_be_left_stay_whole() -> None:
    export, model, sites = open_export("bert", "dynamo")
    feeds = export.feeds(2)
    length = feeds["input_ids"].shape[1]
    patched = patch(model, two_pass(sites, "bert", SitePlan(Static(tuple(range(length)))), mend="excise"), sites)
    before, after = run_all(model, feeds), run_all(patched, feeds)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, atol=2e-5 * np.abs(array).max(), rtol=0)


def value(name: str, *shape: Any, dtype: int = TensorProto.INT64) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


IDS, MASK = value("input_ids", "B", "S"), value("attention_mask", "B", "S")
SITES = open_export("bert", "dynamo")[2]


def test_the_tokens_axis_is_found_by_its_name() -> None:
    inputs = [IDS, MASK, value("token_type_ids", "B", "S"), value("position_ids", "B", "S"), value("extra", "B", 4)]
    outputs = [value("hidden", "B", "S", 32), value("scores", "B", 2)]
    found = token_axis(inputs, outputs, [SITES], 17)
    assert found.inputs == ("input_ids", "attention_mask", "token_type_ids") and found.outputs == ("hidden",)
    assert (found.mask, found.dtype) == ("attention_mask", TensorProto.INT64)


@pytest.mark.parametrize(
    ("inputs", "outputs", "opset"),
    [
        ([IDS], [], 17),
        ([IDS, value("attention_mask", "B", 1, "S", "S")], [], 17),
        ([IDS, MASK, value("bias", "B", "S", "S")], [], 17),
        ([IDS, value("attention_mask", "B", "T")], [], 17),
        ([IDS, MASK], [value("hidden", "B", "T", 32)], 17),
        ([IDS, MASK], [value("cache", "B", 4, "S", 8)], 17),
        ([IDS, MASK], [value("hidden", "B", None, 32)], 17),
        ([value("input_ids", "B", 32), value("attention_mask", "B", 32)], [value("pooled", "B", 32)], 17),
        ([IDS, MASK], [], 11),
    ],
    ids=["no mask", "a mask of pairs", "a bias of pairs", "two names", "another name", "a cache", "no name", "a number", "opset"],
)
def test_what_cannot_be_told_is_refused(inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], opset: int) -> None:
    with pytest.raises(AtpatchError) as caught:
        token_axis(inputs, outputs, [SITES], opset)
    assert caught.value.code == "ATP015" and "--mend redistribute" in str(caught.value.mend)


def test_maps_without_tokens_are_refused() -> None:
    block = attention_block()
    plan = PatchPlan({block.site.id: SitePlan(Static((1,)))}, passes="two", groups=((block.site.id,),), mend="excise")
    with pytest.raises(AtpatchError, match="excision needs one padding mask"):
        patch(block.model, plan, [block.site])
