"""Attention of `com.microsoft` written out: where that is done, and that no bit of an unflagged sample changes."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static, Statistic
from tests import oracle

from ..graphs import run
from ..masked_stacks import MASKS, RIGHT, B, H, S, encoder
from ..microsoft import CASES, Case, case
from ..running import with_outputs

KEPT = {
    "mha": "plain scale bias mask-each mask-filter attention-bias attention-bias-shared causal-mask-bias past"
    " past-causal past-mask present cross cross-heads-first narrow-values",
    "attention": "mask-each causal-left attention-bias past past-mask present",
    "qattention": "tensor-past columns-past",
}
"""Where the operator stays, or MultiHeadAttention takes its place: by rules 1, 2 and 4."""


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def patched(model: onnx.ModelProto, plan: SitePlan, **options: object) -> onnx.ModelProto:
    sites, _ = find_sites(model)
    return patch(model, PatchPlan({site.id: plan for site in sites}, **options), sites)  # type: ignore[arg-type]


@pytest.mark.parametrize("one", [c for c in CASES if not c.id.startswith("gqa")], ids=lambda c: c.id)
def test_what_is_written_out(one: Case) -> None:
    operator, variant = one.id.split("-", 1)
    opened = variant not in KEPT[operator].split()
    for gating in ("if", "none"):
        written = operators(patched(one.model, SitePlan(Statistic()), gating=gating))
        assert ("FusedMatMul" in written) == (opened and gating == "if")
        assert ("MultiHeadAttention" in written) != ("FusedMatMul" in written)


def test_a_head_size_that_is_not_known_keeps_the_operator() -> None:
    model = copy.deepcopy(case("mha-mask-right").model)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "width"
    assert "FusedMatMul" not in operators(patched(model, SitePlan(Statistic())))
    model.graph.node[0].attribute.append(helper.make_attribute("scale", 0.3))
    assert "FusedMatMul" in operators(patched(model, SitePlan(Statistic())))


def answers(model: onnx.ModelProto, feeds: dict[str, np.ndarray], threads: int) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    return ort.InferenceSession(model.SerializeToString(), options).run(["out"], feeds)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mask", [*MASKS, "causal"])
def test_silent_is_bit_identical(mask: str, threads: int) -> None:
    """Also in samples without a column, where onnxruntime's own answer depends on how the mask is added."""
    one = encoder(MASKS.get(mask), causal=mask == "causal")
    silent = patched(one.model, SitePlan(Statistic()), threshold=1e30)
    assert "FusedMatMul" in operators(silent)
    (before,), (after,) = (answers(model, one.feeds, threads) for model in (one.model, silent))
    assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("tokens", [1, 2, 3, 16, 33])
def test_silent_is_bit_identical_at_any_length(tokens: int, scale: float) -> None:
    one = encoder(RIGHT)
    if scale:
        for node in one.model.graph.node:
            node.attribute.append(helper.make_attribute("scale", scale))
    feeds = {name: np.ascontiguousarray(array[:, :tokens]) for name, array in one.feeds.items()}
    silent = patched(one.model, SitePlan(Statistic()), threshold=1e30)
    assert answers(one.model, feeds, 1)[0].tobytes() == answers(silent, feeds, 1)[0].tobytes()


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("mask", ["none", "right", "causal"])
def test_flagged_samples_change_as_numpy_says_and_no_others(mask: str, alike: bool) -> None:
    """Column 9 is padding in the second sample, so that one stays; the third has no column."""
    one = encoder(MASKS.get(mask), causal=mask == "causal", layers=1)
    values = np.random.default_rng(1).normal(size=(1, 1, H)).astype(np.float32)
    pair = BenignPair(np.array([0.5], np.float32), values)
    valid = np.ones((B, S), bool) if one.valid is None else one.valid
    flagged = valid & (np.arange(S) == 9)
    want = oracle.joint(one.truth.map, one.truth.values, flagged, valid, pair)
    want = want.transpose(0, 2, 1, 3).reshape(one.truth.output.shape)
    plan = SitePlan(Static((9,)), pair, every_row_sees_every_column=alike and mask != "causal")
    before, after = (answers(model, one.feeds, 1)[0] for model in (one.model, patched(one.model, plan)))
    for sample, acts in enumerate(flagged.any(1)):
        if acts:
            np.testing.assert_allclose(after[sample], want[sample], atol=2e-5)
        else:
            assert before[sample].tobytes() == after[sample].tobytes()


@pytest.mark.parametrize("mask", ["lengths", "right"])
def test_two_passes_keep_samples_without_a_column(mask: str) -> None:
    one = encoder(MASKS[mask])
    sites, _ = find_sites(one.model)
    joined = (tuple(site.id for site in sites),)
    plan = PatchPlan({site.id: SitePlan(Statistic(exempt=())) for site in sites}, passes="two", groups=joined)
    model = patch(one.model, plan, sites)
    (before,) = answers(one.model, one.feeds, 1)
    silent, firing = (
        answers(model, {**one.feeds, "atpatch_threshold": np.array(bar, np.float32)}, 1)[0] for bar in (1e30, 0.5)
    )
    assert silent.tobytes() == before.tobytes()
    changed = [not np.array_equal(a, b) for a, b in zip(before, firing, strict=True)]
    assert any(changed) and not changed[2]


@pytest.mark.parametrize("mask", ["lengths", "right"])
def test_operators_share_what_is_made_of_their_mask(mask: str) -> None:
    def made_of_it(layers: int) -> int:
        model = patched(encoder(MASKS[mask], layers=layers).model, SitePlan(Statistic()))
        return sum("/padding" in name or "/kept" in name for node in model.graph.node for name in node.output)

    assert made_of_it(1) == made_of_it(3) > 0


def test_the_map_that_is_written_is_that_of_the_operator() -> None:
    one = encoder(RIGHT, layers=1)
    model = patched(one.model, SitePlan(Statistic()), threshold=1e30)
    (name,) = (node.output[0] for node in model.graph.node if node.op_type == "Softmax")
    got = run(with_outputs(model, [name]), one.feeds)[name]
    there = RIGHT.any(1)
    np.testing.assert_allclose(got[there], one.truth.map[there], atol=2e-6)
    hidden = np.broadcast_to(RIGHT[there][:, None, None] == 0, got[there].shape)
    assert hidden.any() and not got[there][hidden].any()
