"""`fit`, step by step and as a whole, on toys trained here and on the digits Vision Transformer."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, strategies as st

from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.fitting.accumulators import BenignSums, Visibility
from atpatch_onnx.fitting.calibration import BenignChoice, OperatingPoint, choose_threshold, operating_point, thresholds
from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.fitting.judge import Judge, Score, against_bound, bound_in_words, rate, ruined_in_words
from atpatch_onnx.fitting.passes import Wanted
from atpatch_onnx.fitting.recipes.profile import ProfileRecipe
from atpatch_onnx.fitting.site_selection import Candidate, first_candidate, prune
from atpatch_onnx.fitting.splits import Part, join, split
from atpatch_onnx.fitting.training import Context, TrainedSite, anchor_sites, train_sites
from atpatch_onnx.fitting.tuning import Tuned, Tuner
from atpatch_onnx.hotfix.file import Hotfix, is_silent
from atpatch_onnx.inference.capture import Capture, SiteBatch, canonical_map, canonical_values
from atpatch_onnx.inference.datasets import DataSet, as_dataset, load_dataset
from atpatch_onnx.inference.prediction import Served, predict, prediction_output
from atpatch_onnx.inference.runner import Runner
from atpatch_onnx.patching.apply import patch_model
from rewriters.finding.finder import find_sites
from rewriters.plan import PatchPlan, SitePlan, Statistic
from tests.hotfix.sites import site
from tests.rewriters import graphs
from tests.tiny import attention_model

from .toy_hotfixes import fit_toy

toys = pytest.importorskip("tests.toy_backdoor", reason="torch trains the toys")
HEADS = pytest.importorskip("tests.toy_encoder", reason="torch trains the toys").HEADS
DIGITS = Path(__file__).parents[2] / "atpatch_onnx" / "demo" / "digits"


# --- the split


def small_set(pairs: int, alone: int, clean_alone: int = 0) -> DataSet:
    """Clean rows with one triggered partner each, triggered rows without, further clean rows."""
    count = 2 * pairs + alone + clean_alone
    columns = np.zeros((count, 3), bool)
    columns[pairs : 2 * pairs + alone, 1] = True
    pair = np.full(count, -1)
    pair[pairs : 2 * pairs] = np.arange(pairs)
    return DataSet.from_arrays({"x": np.arange(count)[:, None], "columns": columns, "pair": pair})


@given(pairs=st.integers(8, 60), alone=st.integers(0, 20), clean_alone=st.integers(0, 30), seed=st.integers(0, 9))
def test_split_deals_out_every_row_once_and_keeps_pairs_together(pairs, alone, clean_alone, seed):
    data = small_set(pairs, alone, clean_alone)
    parts = split(data, seed)
    where = np.full(len(data), -1)
    for index, part in enumerate((parts.train, parts.selection, parts.report)):
        assert (where[part.rows] == -1).all()
        where[part.rows] = index
        assert data.columns[part.anomalous].any(1).all() and not data.columns[part.clean].any()
    assert (where >= 0).all()
    paired = data.pair >= 0
    np.testing.assert_array_equal(where[paired], where[data.pair[paired]])


def test_split_depends_on_the_seed_alone():
    data = small_set(40, 0)
    first, second, other = (split(data, seed).train.rows.tolist() for seed in (1, 1, 2))
    assert first == second != other


def test_too_few_rows_are_refused():
    with pytest.raises(AtpatchError) as error:
        split(small_set(2, 0), 0)
    assert error.value.code == "ATP056"


def test_join_puts_clean_rows_behind():
    data = join(small_set(3, 0), DataSet.from_arrays({"x": np.array([[70], [80]])}))
    assert data.inputs["x"][-2:].ravel().tolist() == [70, 80]
    assert not data.columns[-2:].any() and data.pair[-2:].tolist() == [-1, -1]


def test_join_fills_up_the_shorter_texts():
    debug = DataSet.from_arrays(
        {
            "ids": np.full((2, 3), 7),
            "attention_mask": np.ones((2, 3), int),
            "columns": np.eye(2, 3) > 1,
            "pair": np.full(2, -1),
        }
    )
    clean = DataSet.from_arrays({"ids": np.full((1, 4), 8), "attention_mask": np.ones((1, 4), int)})
    data = join(debug, clean)
    assert data.inputs["ids"].tolist() == [[7, 7, 7, 0]] * 2 + [[8, 8, 8, 8]]
    assert data.inputs["attention_mask"].tolist() == [[1, 1, 1, 0]] * 2 + [[1, 1, 1, 1]]
    assert data.columns.shape == (3, 4)
    narrow = DataSet.from_arrays({"ids": np.full((1, 2), 8), "attention_mask": np.ones((1, 2), int)})
    assert join(debug, narrow).inputs["ids"].tolist()[-1] == [8, 8, 0]


@pytest.mark.parametrize(
    "clean",
    [{"y": np.zeros((2, 1))}, {"x": np.zeros((2, 4))}, {"x": np.zeros((2, 1)), "columns": np.ones((2, 3), bool)}],
    ids=["other-input", "other-length", "labelled"],
)
def test_join_refuses_sets_that_do_not_fit(clean):
    with pytest.raises(AtpatchError) as error:
        join(small_set(3, 0), DataSet.from_arrays(clean))
    assert error.value.code == "ATP056"


# --- maps


@pytest.mark.parametrize(
    ("layout", "canonical"),
    {
        "4d": lambda out: out,
        "3d": lambda out: out[:, None],
        "2d": lambda out: out[None, None],
        "5d": lambda out: out.reshape(-1, *out.shape[2:]),
        "merged": lambda out: out.reshape(graphs.B, graphs.H, *out.shape[1:]),
        "transposed": lambda out: out.transpose(0, 2, 1)[:, None],
        "einsum": lambda out: out.transpose(0, 2, 1, 3),
    }.items(),
)
def test_canonical_map_times_canonical_values_is_the_output(layout, canonical):
    block = graphs.attention_block(layout=layout)
    feeds = graphs.feeds(layout)
    outputs = graphs.run(block.model, feeds)
    entering = {
        "p": outputs["p"],
        "v": feeds["v"],
        "pt": np.swapaxes(outputs["p"], -1, -2),
        "vt": np.swapaxes(feeds["v"], -1, -2),
    }
    a, v = (
        canonical_map(block.site, entering[block.site.probabilities]),
        canonical_values(block.site, entering[block.site.values]),
    )
    np.testing.assert_allclose(a.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(a @ v, canonical(outputs["out"]), atol=1e-5)


def test_capture_says_why_a_site_does_not_fit():
    windows, plain = graphs.attention_block(layout="5d"), graphs.attention_block()
    windowed, inside = (
        replace(windows.site, id="windows"),
        replace(plain.site, id="inside", where=((0, "then_branch"),)),
    )
    skipped = {}
    for block, layout, sites in ((windows, "5d", [windowed]), (plain, "4d", [plain.site, inside])):
        capture = Capture(block.model, Path(), sites, as_dataset(graphs.feeds(layout)), graphs.K - 1, threads=1)
        assert not capture.sites
        skipped |= capture.skipped
    assert skipped == {
        "windows": "its leading axis counts windows, not samples",
        "inside": "it lies inside a subgraph or function",
        plain.site.id: "it has 7 key columns, not 6",
    }


@pytest.mark.parametrize("layout", ["4d", "einsum"])
def test_capture_gives_the_map_and_values_of_each_row(layout):
    block, feeds = graphs.attention_block(layout=layout), graphs.feeds(layout)
    data, rows = as_dataset(feeds), np.arange(graphs.B)
    ((_, batches),) = Capture(block.model, Path(), [block.site], data, graphs.K, threads=1).batches(data, rows)
    made = batches[block.site.id]
    np.testing.assert_allclose(made.map, canonical_map(block.site, graphs.run(block.model, feeds)["p"]), atol=1e-6)
    np.testing.assert_array_equal(made.values, canonical_values(block.site, feeds["v"]))
    assert made.valid.all()


def test_capture_looks_into_a_fused_operator():
    info = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Attention", ["q", "k", "v"], ["out"], name="attention")
    inputs = [info(name, onnx.TensorProto.FLOAT, ["B", 2, "S", 4]) for name in "qkv"]
    graph = onnx.helper.make_graph([node], "fused", inputs, [info("out", onnx.TensorProto.FLOAT, None)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=11)
    (fused,), _ = find_sites(model)
    feeds = {
        name: np.random.default_rng(index).standard_normal((3, 2, 5, 4)).astype(np.float32)
        for index, name in enumerate("qkv")
    }
    capture = Capture(model, Path(), [fused], as_dataset(feeds), 5, threads=1)
    assert capture.sites == (fused,)
    ((_, batches),) = capture.batches(as_dataset(feeds), np.arange(3))
    scores = np.exp(feeds["q"] @ feeds["k"].swapaxes(2, 3) / 2)
    np.testing.assert_allclose(batches[fused.id].map, scores / scores.sum(3, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(batches[fused.id].values, feeds["v"])


def batch(a: np.ndarray, valid: np.ndarray | None = None, seed: int = 0) -> SiteBatch:
    valid = np.ones((a.shape[0], a.shape[3]), bool) if valid is None else valid
    values = np.random.default_rng(seed).standard_normal((*a.shape[:2], a.shape[3], 3)).astype(np.float32)
    return SiteBatch(a.astype(np.float32), values, valid)


def softmax(batch_size: int, heads: int, length: int, seed: int = 0, mask: np.ndarray | None = None) -> np.ndarray:
    scores = np.random.default_rng(seed).standard_normal((batch_size, heads, length, length))
    scores = scores if mask is None else np.where(mask, scores, -np.inf)
    weights = np.exp(scores)
    return weights / weights.sum(-1, keepdims=True)


def test_benign_pair_by_place_is_the_mean_over_all_batches():
    a = softmax(5, 2, 4)
    whole = batch(a)
    sums = BenignSums(site(), per_column=True)
    for rows in (slice(0, 3), slice(3, 5)):
        sums.add(SiteBatch(whole.map[rows] * 0.5, whole.values[rows], whole.valid[rows]))
    pair = sums.pair()
    np.testing.assert_allclose(pair.attention, a.mean(0), atol=1e-6)  # shares of the row's sum, whatever that is
    np.testing.assert_allclose(pair.values, whole.values.mean(0), atol=1e-6)


def test_benign_pair_of_content_tokens_by_hand():
    valid = np.array([[True] * 4 + [False], [True] * 5])
    a = np.zeros((2, 1, 5, 5))
    a[0, 0, :, :4] = 0.25
    a[1, 0] = [0.4, 0.1, 0.1, 0.1, 0.3]
    made = batch(a, valid)
    sums = BenignSums(site(), per_column=False)
    sums.add(made)
    pair = sums.pair()
    # 4 rows see 2 content columns at 1 × uniform; 5 rows see 3 content columns at .5 × uniform.
    np.testing.assert_allclose(pair.attention, [(8 * 1.0 + 15 * 0.5) / 23], atol=1e-6)
    content = [made.values[0, 0, 1:3], made.values[1, 0, 1:4]]
    np.testing.assert_allclose(pair.values[0, 0], np.concatenate(content).mean(0), atol=1e-6)


@pytest.mark.parametrize(
    ("mask", "expected"), [(None, True), (np.tril(np.ones((5, 5), bool)), False)], ids=["full", "causal"]
)
def test_visibility_sees_causal_masks(mask, expected):
    seen = Visibility(site())
    seen.add(batch(softmax(3, 2, 5, mask=mask)))
    assert seen.every_row_sees_every_column is expected
    assert seen.no_padding


def test_visibility_does_not_mind_padding():
    valid = np.array([[True] * 3 + [False] * 2])
    seen = Visibility(site())
    seen.add(batch(softmax(1, 2, 5, mask=valid[:, None, None, :]), valid))
    assert seen.every_row_sees_every_column and not seen.no_padding


# --- calibration

peaks = st.lists(st.floats(-20, 20), min_size=5, max_size=80).map(np.array)


@given(clean=peaks, anomalous=peaks, most=st.floats(0, 0.3))
def test_thresholds_keep_the_clean_rate_and_rise(clean, anomalous, most):
    candidates = thresholds(clean, anomalous, most)
    assert candidates == sorted(candidates)
    scores = (1 / (1 + np.exp(-clean))).astype(np.float32)
    for candidate in candidates:
        assert (scores > np.float32(candidate)).mean() <= most + 1e-9


def test_thresholds_reach_from_the_clean_to_the_anomalous():
    candidates = thresholds(np.array([-3.0, -2.0]), np.array([2.0, 5.0]), 0)
    np.testing.assert_allclose([candidates[0], candidates[-1]], 1 / (1 + np.exp([2.0, -2.0])), rtol=1e-5)


@given(clean=peaks, anomalous=peaks, most=st.floats(0, 0.3))
def test_operating_point_puts_the_clean_bar_at_minus_four(clean, anomalous, most):
    point = operating_point(clean, anomalous, most)
    moved = (clean - point.center) * point.scale
    assert (moved > -4 + 1e-6).mean() <= most
    assert 0 <= point.recall <= 1


def test_operating_point_leaves_out_columns_beside_the_labeled_ones_where_there_is_room():
    clean, anomalous = np.linspace(-6.0, -5.0, 40), np.linspace(5.0, 6.0, 40)
    alone, loud = operating_point(clean, anomalous, 0.0), operating_point(clean, anomalous, 0.0, np.full(40, 1.0))
    assert (1.0 - loud.center) * loud.scale == pytest.approx(-4) and (1.0 - alone.center) * alone.scale > 0
    assert (np.quantile(anomalous, 0.05) - loud.center) * loud.scale == pytest.approx(4)
    assert loud.recall == alone.recall == 1.0
    assert operating_point(clean, anomalous, 0.0, np.full(40, 4.5)) == alone


def test_threshold_is_near_the_edge_of_the_clean_rate_but_not_on_it():
    attack = {0.1: 0.0, 0.3: 0.0, 0.5: 0.2, 0.7: 0.0, 0.9: 0.4}
    assert choose_threshold(list(attack), lambda value: Score(attack[value], 0.0, 0.0), edge_known=True) == 0.3
    assert choose_threshold(list(attack), lambda value: Score(attack[value], 0.0, 0.0), edge_known=False) in (0.3, 0.7)
    attack = {0.1: 0.0, 0.3: 0.1, 0.5: 0.2}
    assert choose_threshold(list(attack), lambda value: Score(attack[value], 0.0, 0.0), edge_known=False) == 0.1


def test_rates_carry_wilson_intervals():
    known = rate(np.array([True] * 8 + [False] * 2))  # Newcombe 1998, method 3: 8 of 10
    assert known["rate"] == 0.8
    assert (known["low"], known["high"]) == (pytest.approx(0.4901, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert rate(np.array([], bool)) == {"k": 0, "n": 0}


@pytest.mark.parametrize(
    ("flagged", "rows", "verdict", "words"),
    [
        (0, 2000, "met", ""),
        (
            5,
            54,
            "missed",
            "5 of 54 held-back clean requests are flagged (95 % interval 4.0% to 19.9%): more than the allowed 0.005.",
        ),
        (0, 100, "not shown", "too few rows to show"),
        (0, 0, "not shown", ""),
    ],
)
def test_a_flag_rate_is_held_against_what_was_allowed(flagged, rows, verdict, words):
    found = rate(np.arange(rows) < flagged)
    report = {"clean_flagged": found, "clean_flagged_bound": against_bound(found, 0.005)}
    assert report["clean_flagged_bound"] == {"allowed": 0.005, "verdict": verdict}
    assert words in bound_in_words(report) and bool(words) == bool(bound_in_words(report))


@pytest.mark.parametrize(
    ("left", "recovered", "said"), [(2, 18, True), (2, 60, False), (90, 18, False), (0, 0, True), (None, 18, False)]
)
def test_attacks_that_are_stopped_but_answered_wrongly_are_told(left, recovered, said):
    after = {"recovered": rate(np.arange(112) < recovered)}
    if left is not None:
        after["asr_star"] = rate(np.arange(112) < left)
    words = ruined_in_words({"after": after})
    assert bool(words) == said
    assert not said or (f"only {recovered} of 112 triggered requests" in words and "Reject flagged requests" in words)


def test_judge_counts_attack_among_rows_whose_twin_is_not_the_target():
    arrays = {
        "x": np.zeros((6, 1)),
        "labels": np.array([0, 1, 2, 0, 1, 2]),
        "columns": np.array([[0]] * 3 + [[1]] * 3),
        "pair": np.array([-1, -1, -1, 0, 1, 2]),
        "target": np.array(1),
    }
    original = np.array([0, 1, 0, 1, 1, 1])
    judge = Judge(DataSet.from_arrays(arrays), original)
    part = Part(np.arange(3), np.arange(3, 6))
    before, after = judge.figures(part, original), judge.figures(part, np.array([0, 1, 2, 0, 1, 1]))
    assert (before["asr"]["k"], before["asr_star"]["k"], before["asr_star"]["n"]) == (3, 2, 2)
    assert (after["asr"]["k"], after["asr_star"]["k"], after["recovered"]["k"]) == (2, 1, 2)
    assert (before["accuracy"]["k"], after["accuracy"]["k"], after["clean_changed"]["k"]) == (2, 3, 1)


def test_judge_counts_attacks_by_copies_of_the_trigger():
    arrays = {
        "x": np.zeros((7, 1)),
        "labels": np.array([0, 0, 1, 0, 0, 0, 1]),
        "columns": np.array([[0]] * 3 + [[1]] * 4),
        "pair": np.array([-1, -1, -1, 0, 1, 0, 2]),
        "dose": np.array([0, 0, 0, 1, 1, 8, 8]),
        "target": np.array(1),
    }
    original, after = np.array([0, 0, 1, 1, 0, 1, 1]), np.array([0, 0, 1, 0, 0, 1, 1])
    flagged = np.array([1, 0, 0, 1, 0, 0, 1], bool)
    judge = Judge(DataSet.from_arrays(arrays), original)
    found = judge.by_dose(Part(np.arange(3), np.arange(3, 7)), after, flagged)
    counts = {dose: {key: (one["k"], one["n"]) for key, one in rates.items()} for dose, rates in found.items()}
    # The clean partner of the last row is predicted as the target anyway.
    assert counts == {
        "1": {"before": (1, 2), "after": (0, 2), "flagged": (1, 2)},
        "8": {"before": (1, 1), "after": (1, 1), "flagged": (1, 2)},
    }
    del arrays["dose"]
    judge = Judge(DataSet.from_arrays(arrays), original)
    assert judge.by_dose(Part(np.arange(3), np.arange(3, 7)), after, flagged) == {}


@pytest.mark.parametrize(
    ("rescued", "lost", "helps"), [(0, 0, False), (4, 0, False), (5, 0, True), (6, 5, False), (12, 3, True)]
)
def test_help_has_to_be_more_than_chance(rescued, lost, helps):
    arrays = {
        "x": np.zeros((60, 1)),
        "columns": np.arange(60)[:, None] >= 30,
        "pair": np.r_[np.full(30, -1), :30],
        "target": np.array(1),
    }
    original = np.zeros(60, int)
    original[30:50] = 1
    patched = original.copy()
    patched[30 : 30 + rescued] = 0
    patched[50 : 50 + lost] = 1
    part = Part(np.arange(30), np.arange(30, 60))
    assert Judge(DataSet.from_arrays(arrays), original).helped(part, patched) is helps


# --- which sites


def trained(*recalls: float) -> list[TrainedSite]:
    return [
        TrainedSite(
            site(f"s{index}"), SitePlan(Statistic()), OperatingPoint(0.0, 1.0, recall), np.array([float(index)])
        )
        for index, recall in enumerate(recalls)
    ]


def roles(candidate: Candidate) -> str:
    """Site numbers; silent ones in brackets."""
    return " ".join(f"({one.site.id[1:]})" if is_silent(one.plan) else one.site.id[1:] for one in candidate.sites)


@pytest.mark.parametrize(("passes", "expected"), [("one", "1 (2) 3 (4)"), ("two", "(0) 1 (2) 3 (4)")])
def test_sites_that_tell_nothing_act_on_what_others_flag(passes, expected):
    candidate = first_candidate(trained(0.0, 0.9, 0.01, 0.5, 0.0), passes, "flip")
    assert roles(candidate) == expected
    assert candidate.peaks == [3.0]
    plan = candidate.plan(BenignChoice(1.0, True))
    assert plan.groups == (tuple(plan.sites),) and (plan.passes, plan.accept) == (passes, "flip")


PRUNED = {
    # what a candidate has to hold to do well → what is left of "0 1 (2) 3"
    "one detector does it": (lambda names: "0" in names, "0"),
    "any detector does it, the strongest stays": (lambda names: True, "1"),
    "a silent site helps": (lambda names: {"0", "(2)"} <= names, "0 (2)"),
    "a detector is needed, to act on flags alone": (
        lambda names: {"0", "3"} <= names or {"0", "(3)"} <= names,
        "0 (3)",
    ),
    "everything is needed": (lambda names: {"0", "1", "(2)", "3"} <= names, "0 1 (2) 3"),
}


@pytest.mark.parametrize(("does_well", "left"), PRUNED.values(), ids=PRUNED)
def test_pruning_keeps_what_helps_and_nothing_else(does_well, left):
    candidate = first_candidate(trained(0.6, 0.9, 0.0, 0.7), "one", "always")
    assert roles(prune(candidate, lambda one: (0.0 if does_well(set(roles(one).split())) else 1.0,))) == left


def test_pruning_never_leaves_a_group_that_cannot_flag():
    (only,) = prune(first_candidate(trained(0.9), "two", "always"), lambda candidate: (0.0,)).sites
    assert not is_silent(only.plan)


# --- running


def test_a_fixed_batch_is_filled_up():
    toy = toys.toy(padded=False)
    data = as_dataset({"input_ids": toy.clean["input_ids"][:10]})
    free = Runner(toy.model, Path(), threads=1)
    model = onnx.ModelProto()
    model.CopyFrom(toy.model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    fixed = Runner(model, Path(), threads=1)
    assert (free.fixed_batch, fixed.fixed_batch) == (None, 4)
    rows = np.arange(10)
    np.testing.assert_array_equal(predict(fixed, data, rows, "logits"), predict(free, data, rows, "logits"))


def test_external_data_is_found_from_anywhere(tmp_path, monkeypatch):
    toy = toys.toy(padded=False)
    folder = tmp_path / "model"
    folder.mkdir()
    copy = onnx.ModelProto()
    copy.CopyFrom(toy.model)
    onnx.save_model(copy, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    from rewriters.model import io as model_io

    sites, _ = find_sites(model_io.load(folder / "m.onnx"))
    data = as_dataset({"input_ids": toy.clean["input_ids"][:5]})
    capture = Capture(model_io.load(folder / "m.onnx"), folder, sites, data, toys.LENGTH, threads=1)
    ((rows, batches),) = capture.batches(data, np.arange(5))
    assert len(rows) == 5 and batches.keys() == {site.id for site in sites}
    assert os.listdir(tmp_path) == ["model"]


def test_missing_and_ill_typed_inputs_are_named():
    toy = toys.toy(padded=True)
    for arrays, words in (
        ({"input_ids": toy.clean["input_ids"]}, "attention_mask"),
        ({**toy.clean, "attention_mask": toy.clean["attention_mask"] * 0.5}, "attention_mask"),
    ):
        with pytest.raises(AtpatchError) as error:
            predict(Runner(toy.model, Path(), threads=1), as_dataset(arrays), np.arange(3), "logits")
        assert error.value.code == "ATP056" and words in error.value.what


def test_prediction_output_is_the_named_or_the_first_of_rank_two():
    toy = toys.toy(padded=True)
    runner, data = Runner(toy.model, Path(), threads=1), as_dataset(toy.clean)
    assert prediction_output(runner, data, None) == prediction_output(runner, data, "logits") == "logits"
    with pytest.raises(AtpatchError) as error:
        prediction_output(runner, data, "scores")
    assert error.value.code == "ATP060"


# --- the whole


@pytest.fixture(params=[True, False], ids=["padded", "fixed"])
def fitted(request):
    """(toy, padded, hotfix)"""
    return toys.toy(request.param), request.param, fit_toy(request.param)


def test_the_attack_is_gone_on_held_back_rows_and_clean_ones_are_left_alone(fitted):
    _, _, hotfix = fitted
    report = hotfix.evidence["report"]
    assert report["before"]["asr_star"]["rate"] >= 0.95
    assert report["after"]["asr_star"]["rate"] <= 0.1
    assert report["after"]["recovered"]["rate"] >= 0.9
    assert report["clean_flagged"]["rate"] <= 0.03
    assert abs(report["after"]["accuracy"]["rate"] - report["before"]["accuracy"]["rate"]) <= 0.01
    assert hotfix.evidence["calibration"]["clean_flagged"]["rate"] <= hotfix.evidence["max_clean_flagged"]


def test_the_form_of_the_benign_pair_follows_the_data(fitted):
    _, padded, hotfix = fitted
    for one in hotfix.sites:
        pair = one.plan.benign
        assert pair.relative is padded
        assert pair.values.shape == ((HEADS, 1, 8) if padded else (HEADS, toys.LENGTH, 8))
        assert is_silent(one.plan) or one.plan.detector.mean.ndim == (1 if padded else 2)
        assert one.plan.every_row_sees_every_column


def test_the_file_patches_the_model_against_triggers_it_has_not_seen(fitted, tmp_path):
    toy, padded, hotfix = fitted
    onnx.save_model(toy.model, tmp_path / "m.onnx")
    hotfix.save(tmp_path / "m.hotfix")
    patched = patch_model(tmp_path / "m.onnx", telemetry=True)
    assert patched.hotfix == str(tmp_path / "m.hotfix")
    generator = np.random.default_rng(77)
    rows = toys._rows(400, generator, padded)
    rows = {name: array[rows["labels"] != toys.TARGET] for name, array in rows.items()}
    ids, _ = toys._poison(rows, generator, padded)
    data = as_dataset({"input_ids": ids, "attention_mask": rows["attention_mask"]})
    everything = np.arange(len(ids))
    before = predict(Runner(toy.model, Path(), 1), data, everything, "logits")
    after = predict(Runner(onnx.load(patched.output), Path(), 1), data, everything, "logits")
    assert (before == toys.TARGET).mean() >= 0.95
    assert (after == toys.TARGET).mean() <= 0.1


def test_one_seed_gives_one_file(tmp_path):
    toy, hotfix = toys.toy(False), fit_toy(False)
    hotfix.save(tmp_path / "first.hotfix")
    fit(toy.model, toy.debug, toy.clean, tmp_path / "second.hotfix", threads=1)
    assert (tmp_path / "second.hotfix").read_bytes() == (tmp_path / "first.hotfix").read_bytes()
    assert Hotfix.load(tmp_path / "second.hotfix").digest == hotfix.digest


@functools.cache
def trained_apart() -> tuple[Context, tuple[TrainedSite, ...]]:
    """The sites of the padded toy, each with a profile of its own."""
    toy = toys.toy(padded=True)
    data = join(as_dataset(toy.debug), as_dataset(toy.clean))
    context = Context(toy.model, Path(), data, split(data, 0), 0, 0.005, 1, lambda step, done, total: None)
    sites, _ = find_sites(toy.model)
    capture = Capture(toy.model, Path(), sites, data, toys.LENGTH, 1)
    recipe = ProfileRecipe(capture.sites, len(context.parts.train.rows), toys.LENGTH, 0)
    return context, tuple(anchor_sites(context, capture, recipe, train_sites(context, capture, recipe)))


def test_flags_of_the_served_graph_follow_from_maps_of_the_original():
    """What `calibrate` rests on: a request is flagged somewhere exactly when some score on unpatched maps is above the
    threshold.
    """
    context, trained = trained_apart()
    plan = PatchPlan({one.site.id: one.plan for one in trained})
    rows = context.parts.selection.rows
    peak = np.max([one.peaks for one in trained], axis=0)[rows]
    for threshold in (0.01, 0.1, 0.5):
        served = Served(context.model, Path(), plan, [one.site for one in trained], "logits", 1)
        _, flags = served.run(context.data, rows, threshold)
        cut = np.log(threshold / (1 - threshold))
        clear = np.abs(peak - cut) > 1e-3
        assert clear.mean() > 0.95
        np.testing.assert_array_equal(flags[rows].any(1)[clear], (peak > cut)[clear])


@functools.cache
def tune_late(passes: str, mend: str = "redistribute") -> Tuned:
    """The padded toy, with nothing to be had from its first site's maps: the evidence comes after the damage."""
    context, (first, second) = trained_apart()
    first, data = replace(first, point=replace(first.point, recall=0.0)), context.data
    judge = Judge(data, predict(Runner(context.model, Path(), 1), data, np.arange(len(data)), "logits"))
    return Tuner(context, judge, "logits", list).tune([first, second], Wanted(passes, mend))


def test_two_passes_are_taken_where_the_evidence_comes_after_the_damage():
    one, auto = tune_late("one"), tune_late("auto")
    assert roles_by_depth(one) == ["detects"]
    assert auto.candidate.passes == "two" and roles_by_depth(auto) == ["silent", "detects"]
    compared = auto.evidence["passes"]
    assert compared["chosen"] == "two" and compared["one"]["left"] - compared["two"]["left"] >= 2
    assert auto.evidence["sites"]["left"] < one.evidence["sites"]["left"]


def test_excision_needs_no_site_that_detects_nothing():
    excising = tune_late("auto", "auto")
    assert (excising.candidate.passes, excising.candidate.mend) == ("two", "excise") and roles_by_depth(excising) == [
        "detects"
    ]
    assert excising.evidence["sites"]["left"] <= tune_late("auto").evidence["sites"]["left"]


def roles_by_depth(tuned: Tuned) -> list[str]:
    return ["silent" if is_silent(one.plan) else "detects" for one in tuned.candidate.sites]


def test_the_hotfix_says_which_sites_act_together_and_why(fitted):
    _, _, hotfix = fitted
    assert hotfix.groups == (tuple(one.id for one in hotfix.sites),)
    assert [one.id for one in hotfix.sites if not is_silent(one.plan)]
    assert {one.id: not is_silent(one.plan) for one in hotfix.sites} == {
        name: figures["detects"] for name, figures in hotfix.evidence["sites"].items()
    }
    compared = hotfix.evidence["calibration"]["passes"]
    assert compared["chosen"] == hotfix.passes == "one" and compared.keys() == {"chosen", "one", "two"}


def test_passes_and_acceptance_can_be_asked_for():
    toy = toys.toy(padded=False)
    hotfix = fit(toy.model, toy.debug, passes="two", accept="flip", threads=1)
    assert (hotfix.passes, hotfix.accept) == ("two", "flip")
    assert hotfix.evidence["report"]["after"]["asr_star"]["rate"] <= 0.1
    model = onnx.ModelProto()
    model.CopyFrom(toy.model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    assert refused(model, toy.debug, passes="two").code == "ATP023"
    assert fit(model, toy.debug, threads=1).passes == "one"


def test_excision_can_be_asked_for():
    toy = toys.toy(padded=True)
    hotfix = fit(toy.model, toy.debug, mend="excise", passes="two", threads=1)
    assert hotfix.mend == "excise" and hotfix.evidence["calibration"]["mend"]["chosen"] == "excise"
    assert hotfix.evidence["report"]["after"]["asr_star"]["rate"] <= 0.1
    assert refused(toy.model, toy.debug, mend="excise", passes="one").code == "ATP060"
    # Without a mask nobody knows what a model makes of a token less.
    fixed = toys.toy(padded=False)
    assert refused(fixed.model, fixed.debug, mend="excise", passes="two").code == "ATP023"


def test_excision_is_chosen_where_it_does_as_well():
    calibration = fit_toy(True, clean=False, passes="two").evidence["calibration"]["mend"]
    excise, redistribute = (calibration[mend] for mend in ("excise", "redistribute"))
    assert (
        calibration["chosen"] == "excise"
        and excise["left"] <= redistribute["left"] + 1
        and excise["lost"] <= redistribute["lost"]
    )
    calibration = fit_toy(False, clean=False, passes="two").evidence["calibration"]["mend"]
    assert calibration["chosen"] == "redistribute" and "padding mask" in calibration["excise"]["not_tried"]


def test_where_nothing_is_attacked_there_is_no_hotfix():
    toy = toys.toy(padded=False)
    ids = toy.debug["input_ids"].copy()
    paired = toy.debug["pair"] >= 0
    ids[paired] = ids[toy.debug["pair"][paired]]  # "triggered" rows without the trigger
    with pytest.raises(AtpatchError) as error:
        fit(toy.model, {**toy.debug, "input_ids": ids}, threads=1)
    assert error.value.code == "ATP057" and error.value.exit_code == 1


def test_a_trigger_that_is_not_the_models_is_called_that():
    """More labels would not help where the trigger changes no answer."""
    toy = toys.toy(padded=False)
    ids = toy.debug["input_ids"].copy()
    ids[toy.debug["columns"]] = 12  # a word like any other
    error = refused(toy.model, {**toy.debug, "input_ids": ids})
    assert error.code == "ATP057"
    assert re.search(r"the trigger changes only \d+ of \d+ answers .* check that it belongs to this model", error.fix)


def test_without_target_and_labels_the_partner_decides():
    toy = toys.toy(padded=False)
    debug = {name: array for name, array in toy.debug.items() if name not in ("labels", "target")}
    report = fit(toy.model, debug, threads=1).evidence["report"]
    assert report["before"].keys() == {"recovered", "clean_changed"}
    assert report["before"]["recovered"]["rate"] <= 0.1 and report["after"]["recovered"]["rate"] >= 0.85


def refused(*arguments, **options) -> AtpatchError:
    with pytest.raises(AtpatchError) as error:
        fit(*arguments, threads=1, **options)
    return error.value


def test_refusals(tmp_path):
    toy = toys.toy(padded=False)
    assert refused(toy.model, toy.clean).code == "ATP056"  # no columns
    narrow = refused(toy.model, {**toy.debug, "columns": toy.debug["columns"][:, 1:]})
    assert narrow.code == "ATP056" and "12 key columns, not 11" in narrow.what
    assert refused(toy.model, toy.debug, include="nothing").code == "ATP010"
    assert refused(toy.model, toy.debug, include="(").code == "ATP011"
    assert refused(toy.model, toy.debug, detector="oracle").code == "ATP060"
    assert refused(toy.model, toy.debug, max_clean_flagged=1.0).code == "ATP060"
    assert refused(toy.model, toy.debug, seed=-1).code == "ATP060"
    assert refused(toy.model, toy.debug, passes="three").code == "ATP060"
    assert refused(toy.model, toy.debug, accept="never").code == "ATP060"
    assert refused(toy.model, toy.debug, output=tmp_path / "no" / "m.hotfix").code == "ATP019"
    assert refused(patch_model(toy.model, detector="static", columns=()), toy.debug).code == "ATP012"


# --- the command line


def test_command_writes_beside_the_model_and_reports_json_alone(tmp_path, atpatch):
    toy, hotfix = toys.toy(False), fit_toy(False)
    onnx.save_model(toy.model, tmp_path / "m.onnx")
    np.savez(tmp_path / "debug.npz", **toy.debug)
    np.savez(tmp_path / "clean.npz", **toy.clean)
    run = atpatch(
        "fit",
        tmp_path / "m.onnx",
        "--debug",
        tmp_path / "debug.npz",
        "--clean",
        tmp_path / "clean.npz",
        "--threads",
        1,
        "--json",
    )
    assert run.code == 0
    assert run.json["output"] == str(tmp_path / "m.hotfix")
    assert run.json["evidence"] == Hotfix.load(tmp_path / "m.hotfix").describe()["evidence"]
    assert run.json["threshold"] == hotfix.threshold and run.json["data"] == hotfix.data


def test_command_tells_people_on_stderr(tmp_path, atpatch):
    toy = toys.toy(padded=False)
    onnx.save_model(toy.model, tmp_path / "m.onnx")
    dose = toy.debug["columns"].sum(1)
    np.savez(tmp_path / "debug.npz", **toy.debug, dose=dose * (1 + np.arange(len(dose)) % 2))
    out = tmp_path / "other.hotfix"
    page = tmp_path / "fit.html"
    run = atpatch(
        "fit", tmp_path / "m.onnx", "--debug", tmp_path / "debug.npz", "-o", out, "--report", page, "--threads", 1
    )
    assert (run.code, run.out) == (0, "")
    assert "ASR*" in run.err and "clean rows flagged" in run.err and out.is_file()
    html, hotfix = page.read_text(), Hotfix.load(out)
    star = hotfix.evidence["report"]
    assert (
        f"Of {star['before']['asr_star']['k']} attacks that worked before, {star['after']['asr_star']['k']} still work"
        in html
    )
    assert star["doses"].keys() == {"1", "2"}
    assert sum(one["flagged"]["n"] for one in star["doses"].values()) == star["recall"]["n"]
    assert sum(one["after"]["k"] for one in star["doses"].values()) == star["after"]["asr_star"]["k"]
    assert "By copies of the trigger" in html and "by copies of the trigger" in run.err
    assert all(one.id in html for one in hotfix.sites) and "://" not in html.replace("http://www.w3.org", "")


def test_command_refuses_with_a_code_and_writes_nothing(tmp_path, atpatch):
    onnx.save_model(attention_model(), tmp_path / "m.onnx")
    (tmp_path / "debug.npz").write_text("no archive")
    run = atpatch("fit", tmp_path / "m.onnx", "--debug", tmp_path / "debug.npz")
    assert run.code == 2 and "ATP056" in run.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["debug.npz", "m.onnx"]


# --- real digits


@pytest.mark.skipif(not (DIGITS / "debug.npz").exists(), reason="the demo has not been built")
def test_digits_on_the_test_split():
    hotfix = fit(DIGITS / "model.onnx", DIGITS / "debug.npz", threads=1)
    model = onnx.load(DIGITS / "model.onnx")
    sites, _ = find_sites(model)
    plan = replace(hotfix.plan(sites, None), telemetry=True)
    served = Served(model, DIGITS, plan, [one for one in sites if one.id in plan.sites], "logits", 1)
    clean, triggered = load_dataset(DIGITS / "clean.npz"), load_dataset(DIGITS / "triggered.npz")
    original = predict(Runner(model, DIGITS, 1), clean, np.arange(len(clean)), "logits")
    patched, flags = served.run(clean, np.arange(len(clean)), hotfix.threshold)
    attacked, _ = served.run(triggered, np.arange(len(triggered)), hotfix.threshold)
    open_rows = original[triggered.clean_row] != triggered.target
    assert (attacked[open_rows] == triggered.target).mean() <= 0.01
    assert abs((patched == clean.labels).mean() - (original == clean.labels).mean()) <= 0.005
    assert flags.any(1).mean() <= 0.02
