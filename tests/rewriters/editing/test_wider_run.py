"""`PatchPlan.wider`: where the flagged columns do not change the prediction, more columns are tried."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch, unpatch
from rewriters.editing.second_run import joint_scores
from rewriters.errors import AtpatchError
from rewriters.finding.finder import find_sites
from rewriters.plan import OneClass, PatchPlan, SitePlan
from tests.toy_backdoor import toy
from tests.toy_encoder import TRIGGER

from ..running import run_all, unchanged, with_outputs

BAR, MOST, WIDER, ROWS = 1.64, 1, 6, 160
SURE = 3.0
WAYS = [(mend, gating) for mend in ("excise", "redistribute") for gating in ("if", "none")]


@functools.cache
def made() -> tuple[onnx.ModelProto, tuple[Any, ...], dict[str, np.ndarray]]:
    """Rows without a trigger, with one, and with several."""
    model, clean = toy(padded=True).model, toy(padded=True).clean
    ids, mask = (clean[name][:ROWS].copy() for name in ("input_ids", "attention_mask"))
    rng = np.random.default_rng(2)
    for row in range(ROWS):
        ids[row, rng.permutation(np.arange(1, mask[row].sum()))[: row % 4]] = TRIGGER
    return model, find_sites(model)[0], {"input_ids": ids, "attention_mask": mask}


def plan(**options: Any) -> PatchPlan:
    """One head of each site counts; about half of the rows have a column above the bar."""
    sites = made()[1]
    heads = sites[0].heads
    detector = OneClass(np.zeros(2 * heads, np.float32), np.eye(2 * heads, 1, dtype=np.float32), False, 0.0)
    names = tuple(site.id for site in sites)
    ready = PatchPlan(
        {name: SitePlan(detector) for name in names}, passes="two", groups=(names,), joint="sum", telemetry=True
    )
    return replace(ready, **{"threshold": BAR, "most": MOST, "accept": "flip", **options})


def answers(**options: Any) -> dict[str, np.ndarray]:
    model, sites, feeds = made()
    return run_all(patch(model, plan(**options), sites), feeds)


def acted(count: int, **options: Any) -> np.ndarray:
    """Answers where of flagged rows the highest `count` columns are acted on: no bar but that for the row."""
    return answers(most=count, companion=1e-6, accept="always", **options)["logits"]


def expected(
    before: np.ndarray, narrow: np.ndarray, wide: np.ndarray, flagged: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Class scores row by row, and which answer each row gets: 0 the first run's, then 1 and 2 of the second run."""
    scores, taken = before.copy(), np.zeros(len(before), int)
    for row in np.flatnonzero(flagged):
        for number, answer in ((1, narrow), (2, wide)):
            if answer[row].argmax() != before[row].argmax():
                scores[row], taken[row] = answer[row], number
                break
    return scores, taken


@pytest.mark.parametrize(("mend", "gating"), WAYS)
def test_the_first_answer_with_another_prediction_is_taken(mend: str, gating: str) -> None:
    model, sites, feeds = made()
    patched = patch(model, plan(wider=WIDER, mend=mend, gating=gating), sites)
    onnx.checker.check_model(patched)
    before, found = run_all(model, feeds)["logits"], run_all(patched, feeds)
    one = answers(accept="always", mend=mend, gating=gating)
    narrow, wide = one["logits"], acted(WIDER, mend=mend, gating=gating)
    flagged = one["atpatch_flagged"].any(1)
    want, taken = expected(before, narrow, wide, flagged)
    np.testing.assert_allclose(found["logits"], want, atol=2e-5)
    assert found["logits"][taken == 0].tobytes() == before[taken == 0].tobytes()
    np.testing.assert_array_equal(found["atpatch_flagged"], one["atpatch_flagged"])
    for site in sites:
        columns = f"atpatch_columns/{site.id}"
        np.testing.assert_array_equal(found[columns], one[columns])
    # All cases are there, and answers of rows where both change differ, so that their order matters.
    both = (taken == 1) & (wide.argmax(1) != before.argmax(1))
    assert (~flagged).any() and (flagged & (taken == 0)).any() and (taken == 2).sum() > 4 and both.sum() > 4
    assert (np.abs(narrow - wide).max(1) > 1e-2)[both].any()
    assert unpatch(patched) == model


def test_of_the_highest_columns_the_second_try_takes_out_as_many_tokens() -> None:
    """By the original's answers to requests written without them."""
    model, sites, feeds = made()
    found = answers(wider=WIDER, mend="excise")["logits"]
    patched = patch(model, plan(most=0, mend="excise"), sites)
    score = joint_scores(patched)[0]
    scores = run_all(with_outputs(patched, [score]), feeds)[score]
    before = run_all(model, feeds)["logits"]
    tries = []
    for count in (MOST, WIDER):
        cut = {name: np.zeros_like(array) for name, array in feeds.items()}
        for row, order in enumerate(np.argsort(-scores, axis=1, kind="stable")):
            kept = np.sort(order[count:])
            for name, array in feeds.items():
                cut[name][row, : len(kept)] = array[row, kept]
        tries.append(run_all(model, cut)["logits"])
    want, taken = expected(before, *tries, scores.max(1) > BAR)
    assert set(taken) == {0, 1, 2}
    np.testing.assert_allclose(found, want, atol=2e-5)


@pytest.mark.parametrize("gating", ["if", "none"])
def test_a_group_without_a_flag_acts_on_no_column_in_the_second_try(gating: str) -> None:
    model, sites, feeds = made()
    apart = {"groups": tuple((site.id,) for site in sites), "threshold": 0.9, "gating": gating}
    before, found = run_all(model, feeds)["logits"], answers(wider=WIDER, **apart)
    one = answers(accept="always", **apart)
    flags = one["atpatch_flagged"]
    want, taken = expected(before, one["logits"], acted(WIDER, **apart), flags.any(1))
    np.testing.assert_allclose(found["logits"], want, atol=2e-5)
    assert (taken[flags.sum(1) == 1] == 2).sum() > 3


@pytest.mark.parametrize("gating", ["if", "none"])
def test_a_row_gets_the_same_answer_whatever_else_is_in_the_batch(gating: str) -> None:
    model, sites, feeds = made()
    patched = patch(model, plan(wider=WIDER, mend="excise", gating=gating), sites)
    together = run_all(patched, feeds)["logits"]
    for row in range(0, ROWS, 8):
        alone = run_all(patched, {name: array[row : row + 1] for name, array in feeds.items()})["logits"]
        np.testing.assert_allclose(alone[0], together[row], atol=2e-5)


@pytest.mark.parametrize("gating", ["if", "none"])
def test_silent_patches_change_no_bit(gating: str) -> None:
    model, sites, feeds = made()
    options = {"wider": WIDER, "gating": gating, "mend": "excise"}
    unchanged(model, patch(model, plan(threshold=1e9, **options), sites), feeds)
    patched = patch(model, plan(**options), sites)
    for steer in ({"atpatch_enabled": np.array(False)}, {"atpatch_threshold": np.array(1e9, np.float32)}):
        unchanged(model, patched, {**feeds, **steer})


def test_the_threshold_of_a_request_decides_which_rows_are_tried() -> None:
    model, sites, feeds = made()
    bar = 1.75
    steered = run_all(
        patch(model, plan(wider=WIDER, mend="excise"), sites), {**feeds, "atpatch_threshold": np.array(bar, np.float32)}
    )
    fixed = answers(wider=WIDER, mend="excise", threshold=bar, controls="none")
    for name, array in fixed.items():
        np.testing.assert_array_equal(steered[name], array)


def test_rows_below_the_margin_are_not_tried() -> None:
    model, _, feeds = made()
    before = run_all(model, feeds)["logits"]
    sure = np.abs(before[:, 0] - before[:, 1]) > SURE
    without = answers(wider=WIDER, mend="excise")["logits"]
    found = answers(wider=WIDER, mend="excise", margin=SURE)["logits"]
    np.testing.assert_allclose(found, np.where(sure[:, None], without, before), atol=2e-5)
    assert (without[~sure] != before[~sure]).any()


def test_flagged_columns_beyond_the_number_are_acted_on_as_well() -> None:
    """Without `most` a row may have more flagged columns than the second try asks for."""
    many = answers(most=0, threshold=1.0, accept="always", mend="excise")
    few = answers(most=0, threshold=1.0, wider=1, mend="excise")
    before = run_all(made()[0], made()[2])["logits"]
    changed = many["logits"].argmax(1) != before.argmax(1)
    np.testing.assert_allclose(few["logits"], np.where(changed[:, None], many["logits"], before), atol=2e-5)


def test_without_a_second_try_the_graph_is_as_before_and_with_one_it_has_no_third_copy() -> None:
    model, sites, _ = made()
    one = patch(model, plan(), sites)
    assert one.SerializeToString() == patch(model, plan(wider=0), sites).SerializeToString()
    two = patch(model, plan(wider=WIDER), sites)

    def products(graph: onnx.GraphProto) -> int:
        bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
        return sum(node.op_type == "MatMul" for node in graph.node) + sum(map(products, bodies))

    assert products(two.graph) == products(one.graph)
    assert len(two.graph.initializer) - len(one.graph.initializer) < 10


@pytest.mark.parametrize(
    "options",
    [{"wider": -1}, {"accept": "always"}, {"joint": "any", "most": 0}, {"most": WIDER}],
    ids=["negative", "always", "any", "no-more-than-the-first"],
)
def test_plans_that_no_graph_can_hold(options: dict[str, Any]) -> None:
    model, sites, _ = made()
    with pytest.raises(AtpatchError) as caught:
        patch(model, plan(**{"wider": WIDER, **options}), sites)
    assert caught.value.code == "ATP024"
