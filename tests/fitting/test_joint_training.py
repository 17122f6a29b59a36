"""Sites that add up their logits, rows without their padding, and choices that look at probabilities: parts of `fit` on
the padded toy.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.fitting.calibration import BENIGN_CHOICES, BenignChoice, as_few, choose_benign
from atpatch_onnx.fitting.fitted import Fitted, Outcome
from atpatch_onnx.fitting.fitter import SPARSE, _no_worse, fit
from atpatch_onnx.fitting.hotfix_maker import Fit
from atpatch_onnx.fitting.judge import Judge, Score
from atpatch_onnx.fitting.splits import Part
from atpatch_onnx.hotfix.file import Hotfix
from atpatch_onnx.inference.datasets import DataSet, as_dataset
from atpatch_onnx.inference.padding import common_mask, cut, lengths
from atpatch_onnx.inference.prediction import Served, class_scores
from atpatch_onnx.inference.runner import Runner
from rewriters.finding.finder import find_sites
from rewriters.plan import PatchPlan

from .toy_hotfixes import fit_toy
from .toy_sites import MASK, trained_together

toys = pytest.importorskip("tests.toy_backdoor", reason="torch trains the toys")


@pytest.mark.parametrize(("kind", "every"), [("profile", 1), ("profile", 3), ("cnn", 1)])
def test_the_sum_foretells_the_flags_of_the_served_graph(kind, every):
    context, _, together = trained_together(kind, every)
    assert all(getattr(one.plan.detector, "every", 1) == every for one in together)
    plan = PatchPlan(
        {one.site.id: one.plan for one in together},
        passes="two",
        groups=(tuple(one.site.id for one in together),),
        joint="sum",
    )
    served = Served(context.model, Path(), plan, [one.site for one in together], "logits", 1, context.mask)
    rows, peaks = context.parts.selection.rows, together[0].peaks
    assert all(one.peaks is peaks for one in together)
    for threshold in (0.01, 0.1, 0.5):
        _, flags = served.run(context.data, rows, threshold)
        margin = peaks[rows] - np.log(threshold / (1 - threshold))
        clear = np.abs(margin) > 1e-3
        assert clear.mean() > 0.95
        np.testing.assert_array_equal(flags[rows].any(1)[clear], (margin > 0)[clear])


@pytest.mark.parametrize("kind", ["profile", "cnn"])
def test_sites_tell_more_together(kind):
    context, alone, together = trained_together(kind)
    part = context.parts.selection

    def least_gap(peaks: np.ndarray) -> float:
        """From the loudest clean row to the faintest anomalous one, in standard deviations of the clean rows."""
        return float((peaks[part.anomalous].min() - peaks[part.clean].max()) / peaks[part.clean].std())

    assert together[0].point.recall == 1.0
    assert least_gap(together[0].peaks) > max(least_gap(one.peaks) for one in alone)


def test_what_adds_up_takes_two_passes():
    toy = toys.toy(padded=True)
    hotfix = fit_toy(True, clean=False, passes="two")
    assert (hotfix.passes, hotfix.joint) == ("two", "sum")
    sites, _ = find_sites(toy.model)
    assert hotfix.plan(sites, None).joint == "sum"
    with pytest.raises(AtpatchError) as caught:
        hotfix.plan(sites, None, passes="one")
    assert caught.value.code == "ATP024" and "two passes" in caught.value.what


def test_equal_tokens_are_judged_together_where_no_attack_is_nearer_to_success(monkeypatch):
    toy = toys.toy(padded=True)
    assert fit_toy(True, clean=False, passes="two").evidence["calibration"]["equal_tokens"] == {"chosen": False}
    monkeypatch.setattr("atpatch_onnx.fitting.token_ids.VARIED", 1)  # the toy knows 22 tokens, in 12 places
    hotfix = fit(toy.model, toy.debug, passes="two", threads=1)
    tried = hotfix.evidence["calibration"]["equal_tokens"]
    apart, together = ((tried[way]["left"], tried[way]["leaning"]) for way in ("apart", "together"))
    assert tried["together"]["lost"] <= tried["apart"]["lost"]
    assert tried["chosen"] == (together <= apart)
    assert {site.plan.detector.tokens for site in hotfix.sites} == {"input_ids" if tried["chosen"] else None}


@pytest.mark.parametrize(
    ("detector", "every"), [("profile", 0), ("statistic", 2), ("cnn", 2), ("cnn", "auto"), ("oneclass", "auto")]
)
def test_only_some_detectors_do_with_some_rows(detector, every):
    with pytest.raises(AtpatchError) as caught:
        fit(toys.toy(padded=True).model, toys.toy(padded=True).debug, detector=detector, every=every)
    assert caught.value.code == "ATP060"


def test_fewer_rows_are_read_only_where_nothing_is_lost_by_it():
    every, whole, sparse = (fit_toy(True, clean=False, passes="one", every=n) for n in ("auto", 1, SPARSE))
    assert (whole.evidence["every"], sparse.evidence["every"]) == (1, SPARSE)
    assert every.digest in (whole.digest, sparse.digest)
    same = Outcome(left=1, lost=2, missed=3)
    assert _no_worse(fit_with(same), fit_with(same)) and _no_worse(fit_with(Outcome(0, 0, 0)), fit_with(same))
    for key in ("left", "lost", "missed"):
        assert not _no_worse(fit_with(replace(same, **{key: 4})), fit_with(same))


def fit_with(outcome: Outcome) -> Fit:
    """Only what the selection part showed of it is asked for."""
    fitted = Fitted(*(None for _ in dataclasses.fields(Fitted)))
    return Fit(replace(fitted, outcome=outcome), 1, {})


# --- padding


def padded_rows() -> DataSet:
    """With three columns at least that are padding in all of them."""
    data = as_dataset(toys._inputs(toys._rows(140, np.random.default_rng(3), True), True))
    short = np.flatnonzero(data.inputs[MASK].sum(1) <= toys.LENGTH - 3)
    assert len(short) > 32
    return as_dataset(data.feeds(short))


def test_rows_come_shortest_first_and_cut_to_the_longest_of_their_batch():
    toy, data = toys.toy(padded=True), padded_rows()
    used = data.inputs[MASK].sum(1)
    runner, seen = Runner(toy.model, Path(), 1).without_padding(MASK), []
    for chunk, _ in runner.batches(data, np.arange(len(data)), 16, ["logits"]):
        feeds = cut(runner.feeds(data, chunk), MASK, int(lengths(data.inputs[MASK][chunk]).max()))
        assert {array.shape[1] for array in feeds.values()} == {used[chunk].max()}
        seen.append(chunk)
    order = np.concatenate(seen)
    assert sorted(order) == list(range(len(data))) and (np.diff(used[order]) >= 0).all()


def test_scores_do_not_depend_on_padding():
    toy, data = toys.toy(padded=True), padded_rows()
    whole, short = (
        class_scores(Runner(toy.model, Path(), 1).without_padding(mask), data, np.arange(len(data)), "logits")
        for mask in (None, MASK)
    )
    np.testing.assert_allclose(short, whole, rtol=1e-4, atol=1e-5)
    assert common_mask(find_sites(toy.model)[0], data) == MASK


def test_lengths_count_up_to_the_last_real_column():
    assert lengths(np.array([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]])).tolist() == [2, 4, 1]
    got = cut({"ids": np.ones((2, 4)), "mask": np.ones((2, 4)), "other": np.ones((2, 3))}, "mask", 2)
    assert {name: array.shape for name, array in got.items()} == {"ids": (2, 2), "mask": (2, 2), "other": (2, 3)}


def test_a_model_that_looks_at_padding_is_run_whole():
    """The same toy, with a mean over all tokens, padding among them, added to its scores."""
    toy = toys.toy(padded=True)
    looks = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (int64[batch, length] ids, float[batch, 2] scores) => (float[batch,'
        " 2] out){ x = Cast <to = 1> (ids) m = ReduceMean <axes = [1]> (x) out = Add (scores, m) }"
    )
    model = onnx.ModelProto()
    model.CopyFrom(toy.model)
    for node in model.graph.node:
        node.output[:] = ["inner" if name == "logits" else name for name in node.output]
    for node in looks.graph.node:
        node.input[:] = [{"ids": "input_ids", "scores": "inner"}.get(name, name) for name in node.input]
        node.output[:] = ["logits" if name == "out" else name for name in node.output]
    model.graph.node.extend(looks.graph.node)
    assert isinstance(fit(model, toy.debug, toy.clean, threads=1), Hotfix)
    data = padded_rows()
    whole, short = (
        class_scores(Runner(model, Path(), 1).without_padding(mask), data, np.arange(len(data)), "logits")
        for mask in (None, MASK)
    )
    assert np.abs(whole - short).max() > 0.5


# --- what is chosen among equals


@pytest.mark.parametrize(
    ("left", "fewest", "same"), [(0, 0, True), (1, 0, True), (2, 0, False), (12, 9, True), (13, 9, False)]
)
def test_counts_within_a_standard_error_are_as_few(left, fewest, same):
    assert as_few(left, fewest) is same


def test_of_equal_counts_the_pair_that_leans_least_is_chosen():
    told = {
        BenignChoice(1.0, False): (2, 0.30),
        BenignChoice(0.5, False): (3, 0.10),
        BenignChoice(0.0, False): (9, 0.01),
        BenignChoice(1.0, True): (20, 0.90),
        BenignChoice(0.5, True): (3, 0.20),
    }
    assert set(told) == set(BENIGN_CHOICES)
    best, score, table = choose_benign(lambda choice: Score(told[choice][0] / 90, 0.0, 0.0, *told[choice]))
    assert best == BenignChoice(0.5, False) and score.left == 3 and len(table) == 5
    assert choose_benign(lambda choice: Score(told[choice][0] / 90, 0.0, 0.0, told[choice][0]))[0] == BenignChoice(
        1.0, False
    )


def test_leaning_is_the_chance_the_attack_still_has():
    arrays = {
        "x": np.zeros((4, 1)),
        "labels": np.array([0, 1, 0, 1]),
        "columns": np.array([[0], [0], [1], [1]]),
        "pair": np.array([-1, -1, 0, 1]),
    }
    part, original = Part(np.arange(2), np.arange(2, 4)), np.array([0, 1, 1, 1])
    chances = np.array([[1.0, 0.0], [0.0, 1.0], [0.7, 0.3], [0.2, 0.8]])
    aimed = Judge(DataSet.from_arrays({**arrays, "target": np.array(1)}), original)
    # The second row's clean partner is of the target class already.
    assert aimed.score(part, original, chances).leaning == pytest.approx(0.3)
    assert Judge(DataSet.from_arrays(arrays), original).score(part, original, chances).leaning == pytest.approx(
        (0.3 + 0.2) / 2
    )
    assert np.isnan(aimed.score(part, original).leaning)


def test_the_page_draws_the_threshold_where_it_is_held_against_a_score():
    """Sites that add up have one bar, on their sum; others one each."""
    pytest.importorskip("jinja2")
    from atpatch_onnx.fitting.page import fit_page

    for passes, lanes in (("one", None), ("two", ["all sites together"])):
        hotfix = fit_toy(True, clean=False, passes=passes)
        page = fit_page(hotfix, "toy.onnx")
        assert (hotfix.joint == "sum") is (passes == "two")
        drawn = [
            lane.split("</div>")[0] for lane in page.split('<div class="site">')[1:] if '<line class="bar"' in lane
        ]
        assert drawn == (lanes or [name for name, site in hotfix.evidence["sites"].items() if site["detects"]])
        assert "Right of the dashed" in page and "threshold</span>" in page
        assert "clean lost" not in page and "clean rows answered wrongly" in page
