"""`PatchPlan.most`: of a flagged sample, the few columns with the highest joint scores are acted on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch
from rewriters.errors import AtpatchError
from rewriters.plan import Dense, OneClass, OnnxGraph, PatchPlan, Profile, SitePlan

from ... import oracle
from ..graphs import B, K, attention_block, feeds, run

BAR = 1.0


def steps() -> OnnxGraph:
    """Column mass in whole steps, so that scores are often equal."""
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    steps (float[B, H, Q, K] a) => (float[B, K] score) {
      axes = Constant <value = int64[2] {1, 2}> ()
      two = Constant <value = float {2.0}> ()
      mass = ReduceSum <keepdims = 0> (a, axes)
      doubled = Mul (mass, two)
      score = Round (doubled)
    }
    """
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return OnnxGraph(model.SerializeToString())


def columns(data: dict[str, np.ndarray], most: int, companion: float = 1.0, gating: str = "if") -> np.ndarray:
    block = attention_block()
    plan = PatchPlan(
        {block.site.id: SitePlan(steps())},
        threshold=BAR,
        telemetry=True,
        passes="two",
        joint="sum",
        groups=((block.site.id,),),
        companion=companion,
        most=most,
        gating=gating,  # type: ignore[arg-type]
    )
    return run(patch(block.model, plan, [block.site]), data)[f"atpatch_columns/{block.site.id}"]


def scores(data: dict[str, np.ndarray]) -> np.ndarray:
    """The detector in numpy, -inf at padding."""
    a = run(attention_block().model, data)["p"].astype(np.float64)
    return np.where((a > 0).any((1, 2)), np.round(2 * a.sum((1, 2))), -np.inf)


def expected(score: np.ndarray, most: int, companion: float = 1.0) -> np.ndarray:
    """Sample by sample: sort by score, then by place, and take the first few that are above the bar."""
    flags = np.zeros(score.shape, bool)
    for sample, row in enumerate(score):
        if not (row > BAR).any():
            continue
        order = sorted(range(len(row)), key=lambda k, row=row: (-row[k], k))  # type: ignore[misc]
        above = [k for k in order if row[k] > BAR * companion]
        flags[sample, above[: most or None]] = True
    return flags


@pytest.fixture
def data() -> dict[str, np.ndarray]:
    """Sample 0 is padded, and its padding lies in front."""
    made = feeds()
    made["bias"][0, ..., :4] = -np.inf
    return made


def test_the_example_has_equal_scores_at_the_limit_and_samples_of_all_kinds(data: dict[str, np.ndarray]) -> None:
    score = scores(data)
    ranked = -np.sort(-score, 1)
    assert (ranked[:, 1] == ranked[:, 2]).any() and (ranked[:, 2] > BAR).any()
    assert np.isinf(score[0]).sum() == 4


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("companion", [1.0, 0.5])
@pytest.mark.parametrize("most", [0, 1, 2, 3, K - 1, K, K + 5])
def test_columns_are_the_highest_above_the_bar(
    most: int, companion: float, gating: str, data: dict[str, np.ndarray]
) -> None:
    np.testing.assert_array_equal(columns(data, most, companion, gating), expected(scores(data), most, companion))


def test_a_sample_keeps_its_columns_whatever_else_is_in_the_batch(data: dict[str, np.ndarray]) -> None:
    together = columns(data, 2)
    for sample in range(B):
        single = {name: array[sample : sample + 1] for name, array in data.items()}
        np.testing.assert_array_equal(columns(single, 2)[0], together[sample])


TOKENS = np.array([[9, 9, 9, 9, 5, 6, 5], [5, 6, 5, 5, 7, 8, 6], [1, 2, 3, 4, 5, 6, 1]])


def reading_tokens(kind: str) -> OneClass | Profile:
    """With weights drawn at random, and a bar of 1 (distance) or 1/2 (probability)."""
    rng = np.random.default_rng(3)
    mean, weight = rng.uniform(0, 0.5, 4).astype(np.float32), rng.uniform(0.5, 1, (4, 1)).astype(np.float32)
    if kind == "oneclass":
        return OneClass(mean, weight, False, -1.0, rank=2, tokens="tokens")
    return Profile((Dense(weight, np.float32([-1.2])),), mean, np.ones(4, np.float32), tokens="tokens")


def columns_by_token(
    data: dict[str, np.ndarray], one: OneClass | Profile, most: int, gating: str
) -> tuple[np.ndarray, np.ndarray]:
    """Flagged columns (B, K), and the scores of the only site over the bar, -inf at padding."""
    block = attention_block()
    ids = onnx.helper.make_tensor_value_info("tokens", onnx.TensorProto.INT64, ["B", "K"])
    block.model.graph.input.append(ids)
    bar = BAR if isinstance(one, OneClass) else 0.5
    plan = PatchPlan(
        {block.site.id: SitePlan(one)},
        threshold=bar,
        telemetry=True,
        passes="two",
        joint="sum",
        groups=((block.site.id,),),
        most=most,
        gating=gating,  # type: ignore[arg-type]
    )
    patched = run(patch(block.model, plan, [block.site]), {**data, "tokens": TOKENS})
    p = run(attention_block().model, data)["p"]
    valid = (p > 0).any((1, 2))
    own = block.site.self_attention
    score = (
        oracle.oneclass(p, valid, one, own, tokens=TOKENS)
        if isinstance(one, OneClass)
        else oracle.profile(p, valid, one, own)
    )
    return patched[f"atpatch_columns/{block.site.id}"], np.where(valid, score - bar, -np.inf)


@pytest.mark.parametrize("kind", ["oneclass", "profile"])
@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("most", [0, 1, 2, K + 5])
def test_tokens_are_flagged_with_all_their_columns(
    most: int, gating: str, kind: str, data: dict[str, np.ndarray]
) -> None:
    flagged, score = columns_by_token(data, reading_tokens(kind), most, gating)
    repeats = lifted = 0
    for row, ids, flags in zip(score, TOKENS, flagged, strict=True):
        highest = {one: row[ids == one].max() for one in ids}
        falling = sorted((one for one in highest if highest[one] > 0), key=lambda one: -highest[one])
        chosen = np.isin(ids, falling[: most or None]) & np.isfinite(row)
        np.testing.assert_array_equal(flags, chosen)
        repeats += chosen.sum() - len(set(ids[chosen]))
        lifted += (chosen & (row < 0)).sum()
    # A one-class detector has joined the attention of equal tokens before; a profile judges each by its own.
    assert repeats and (lifted > 0) == (kind == "profile")


def test_a_profile_flags_the_same_samples_with_and_without_ids(data: dict[str, np.ndarray]) -> None:
    one = reading_tokens("profile")
    assert isinstance(one, Profile)
    together, apart = (columns_by_token(data, each, 0, "if")[0] for each in (one, replace(one, tokens=None)))
    np.testing.assert_array_equal(together.any(1), apart.any(1))
    assert apart[together].sum() < together.sum() and not apart[~together].any()


def test_ids_that_are_no_input_are_refused() -> None:
    block = attention_block()
    one = OneClass(np.ones(4, np.float32), np.ones((4, 1), np.float32), False, 0.0, tokens="tokens")
    with pytest.raises(AtpatchError, match="tokens") as caught:
        patch(block.model, PatchPlan({block.site.id: SitePlan(one)}), [block.site])
    assert caught.value.code == "ATP023"


@pytest.mark.parametrize(("most", "joint"), [(-1, "sum"), (2, "any")])
def test_a_limit_needs_one_score_for_all_sites(most: int, joint: str) -> None:
    block = attention_block()
    plan = PatchPlan(
        {block.site.id: SitePlan(steps())},
        passes="two",
        joint=joint,  # type: ignore[arg-type]
        groups=((block.site.id,),),
        most=most,
    )
    with pytest.raises(AtpatchError) as caught:
        patch(block.model, plan, [block.site])
    assert caught.value.code == "ATP024"
