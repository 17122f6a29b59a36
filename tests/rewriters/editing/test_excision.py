"""Excision: a flagged request is answered as the original answers it without the flagged tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from rewriters.editing.excision import TokenAxis, token_axis
from rewriters.editing.patcher import patch, unpatch
from rewriters.errors import AtpatchError
from rewriters.finding.finder import find_sites
from rewriters.plan import PatchPlan, SitePlan, Static, Statistic
from tests.exports import EXPORTERS
from tests.toy_backdoor import toy

from ..graphs import attention_block
from ..running import run_all
from .excised import CUT, named, value, without
from .two_passes import open_export, splitting_threshold, two_pass


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
        np.testing.assert_allclose(
            got[name][:, kept][real], array[:, : len(kept)][real], atol=2e-5 * np.abs(array).max(), rtol=0
        )
        assert np.abs(got[name][:, kept][real] - before[name][:, kept][real]).max() > 1e-3
    assert unpatch(patched) == model


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_every_sample_loses_its_own_tokens_and_others_stay_bit_identical(family: str) -> None:
    export, model, sites = open_export(family, "dynamo")
    model = named(model)
    patched, feeds = (
        patch(model, two_pass(sites, family, SitePlan(Statistic(exempt=())), mend="excise"), sites),
        export.feeds(4, padded=True),
    )
    threshold = splitting_threshold(patched, feeds)
    got, before = (
        run_all(patched, {**feeds, "atpatch_threshold": np.array(threshold, np.float32)}),
        run_all(model, feeds),
    )
    flagged = got["atpatch_flagged"].any(1)
    joined = np.any([got[f"atpatch_columns/{site.id}"] for site in sites], 0)
    for sample, hit in enumerate(flagged):
        alone = {name: array[sample : sample + 1] for name, array in feeds.items()}
        for name, array in before.items():
            if not hit:
                assert got[name][sample].tobytes() == array[sample].tobytes()
                continue
            cut = tuple(np.flatnonzero(joined[sample]).tolist())
            kept = np.delete(np.arange(joined.shape[1]), cut)
            real = feeds["attention_mask"][sample, kept] != 0
            want = run_all(model, without(alone, cut))[name][0, : len(kept)]
            np.testing.assert_allclose(
                got[name][sample, kept][real], want[real], atol=2e-5 * np.abs(want).max(), rtol=0
            )


def test_only_flips_are_accepted() -> None:
    made = toy(padded=True)
    sites = find_sites(made.model)[0]
    plan = PatchPlan(
        {site.id: SitePlan(Static((3,))) for site in sites},
        passes="two",
        groups=(tuple(site.id for site in sites),),
        mend="excise",
    )
    feeds = {name: made.clean[name][:200] for name in ("input_ids", "attention_mask")}
    always, flip = (
        run_all(patch(made.model, replace(plan, accept=accept), sites), feeds)["logits"]
        for accept in ("always", "flip")
    )
    before = run_all(made.model, feeds)["logits"]
    flipped = before.argmax(1) != always.argmax(1)
    assert 0 < flipped.sum() < 200
    assert (
        flip[flipped].tobytes() == always[flipped].tobytes() and flip[~flipped].tobytes() == before[~flipped].tobytes()
    )


def test_rows_of_which_nothing_would_be_left_stay_whole() -> None:
    export, model, sites = open_export("bert", "dynamo")
    feeds = export.feeds(2)
    length = feeds["input_ids"].shape[1]
    patched = patch(model, two_pass(sites, "bert", SitePlan(Static(tuple(range(length)))), mend="excise"), sites)
    before, after = run_all(model, feeds), run_all(patched, feeds)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, atol=2e-5 * np.abs(array).max(), rtol=0)


IDS, MASK = value("input_ids", "B", "S"), value("attention_mask", "B", "S")
SITES = open_export("bert", "dynamo")[2]


def test_the_tokens_axis_is_found_by_its_name() -> None:
    inputs = [IDS, MASK, value("token_type_ids", "B", "S"), value("position_ids", "B", "S"), value("extra", "B", 4)]
    outputs = [value("hidden", "B", "S", 32), value("scores", "B", 2)]
    found = token_axis(inputs, outputs, [SITES], 17)
    assert isinstance(found, TokenAxis)
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
    ids=[
        "no mask",
        "a mask of pairs",
        "a bias of pairs",
        "two names",
        "another name",
        "a cache",
        "no name",
        "a number",
        "opset",
    ],
)
def test_what_cannot_be_decided_is_refused(
    inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], opset: int
) -> None:
    refusal = token_axis(inputs, outputs, [SITES], opset)
    assert isinstance(refusal, AtpatchError)
    assert refusal.code == "ATP023" and "--mend redistribute" in refusal.fix


def test_maps_without_tokens_are_refused() -> None:
    block = attention_block()
    plan = PatchPlan({block.site.id: SitePlan(Static((1,)))}, passes="two", groups=((block.site.id,),), mend="excise")
    with pytest.raises(AtpatchError, match="excision needs one padding mask"):
        patch(block.model, plan, [block.site])
