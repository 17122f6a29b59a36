"""`fit` with each kind of detector but `profile`, on the toy backdoor; UF in place of ASR for flip sets."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.fitting.detectors.features import norm_features, profile_features, statistic_scores
from atpatch_onnx.fitting.detectors.oneclass import Moments, describe, describe_norms, in_nats, surprise, tail
from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.fitting.judge import Judge
from atpatch_onnx.fitting.page import fit_page
from atpatch_onnx.fitting.splits import Part, join, split, split_clean
from atpatch_onnx.hotfix.file import Hotfix, is_silent
from atpatch_onnx.inference.datasets import DataSet, as_dataset
from atpatch_onnx.inference.prediction import Served
from rewriters.finding.finder import find_sites
from rewriters.plan import OneClass, Statistic, ValueNorms
from tests import oracle

toys = pytest.importorskip("tests.toy_backdoor", reason="torch trains the toys")
LAYERS = pytest.importorskip("tests.toy_encoder", reason="torch trains the toys").LAYERS


# --- cnn


def test_cnn_stops_the_attack_and_one_detector_serves_all_sites():
    toy = toys.toy(padded=False)
    hotfix = fit(toy.model, toy.debug, toy.clean, detector="cnn", threads=1)
    assert hotfix.detector == "cnn"
    first = [one.plan.detector.convolutions for one in hotfix.sites if not is_silent(one.plan)]
    assert all(np.array_equal(other[0].weight, first[0][0].weight) for other in first)
    assert toys.outcome(hotfix, padded=False)["asr_star"] <= 0.1


def test_cnn_refuses_sequences_of_varying_length():
    toy = toys.toy(padded=True)
    with pytest.raises(AtpatchError) as error:
        fit(toy.model, toy.debug, detector="cnn", threads=1)
    assert error.value.code == "ATP056" and "fixed size" in error.value.what


# --- clean rows alone


@functools.cache
def from_clean_rows(kind: str, padded: bool) -> Hotfix:
    """By attention only; `test_label_free` has the fit by default."""
    rows, model = toys.many_clean(padded), toys.toy(padded).model
    return fit(model, None, rows, detector=kind, max_clean_flagged=0.02, signals="attention", threads=1)


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "fixed"])
def test_oneclass_learns_what_clean_maps_look_like(padded):
    hotfix = from_clean_rows("oneclass", padded)
    assert (hotfix.passes, hotfix.joint) == ("two", "sum")
    detectors = [one.plan.detector for one in hotfix.sites if not is_silent(one.plan)]
    assert [detector.squared for detector in detectors] == [not padded] * (1 if padded else LAYERS)
    seen = toys.outcome(hotfix, padded)
    # The padded toy gives itself away in its first layer, which has no say.
    assert (
        seen["asr_star"] <= (0.5 if padded else 0.1) and seen["flagged"] <= 0.05 and abs(seen["accuracy_drop"]) <= 0.01
    )


def test_one_pass_of_oneclass_lets_each_site_decide():
    hotfix = fit(toys.toy(False).model, None, toys.many_clean(False), detector="oneclass", passes="one", threads=1)
    assert (hotfix.passes, hotfix.joint) == ("one", "any")


def test_statistic_gets_its_threshold_from_clean_rows():
    hotfix = from_clean_rows("statistic", True)
    assert hotfix.detector == "statistic" and hotfix.joint == "any"
    assert hotfix.evidence["calibration"]["clean_flagged"]["rate"] <= 0.02
    assert toys.outcome(hotfix, True)["flagged"] <= 0.05


def test_the_threshold_holds_for_the_served_graph():
    """Flags of the served graph are those that the scores on captured maps foretell, row by row."""
    for kind in ("oneclass", "statistic"):
        hotfix = from_clean_rows(kind, True)
        toy, data = toys.toy(True), join(None, as_dataset(toys.many_clean(True)))
        selection = split_clean(data, 0).selection.clean
        sites, _ = find_sites(toy.model)
        plan = hotfix.plan(sites, None)
        served = Served(toy.model, Path(), plan, [site for site in sites if site.id in plan.sites], "logits", 1)
        _, flags = served.run(data, selection, hotfix.threshold)
        assert flags[selection].any(1).sum() == hotfix.evidence["calibration"]["clean_flagged"]["k"]


def test_a_debugging_set_judges_what_clean_rows_taught():
    toy = toys.toy(padded=False)
    hotfix = fit(toy.model, toy.debug, toys.many_clean(False), detector="oneclass", max_clean_flagged=0.02, threads=1)
    assert hotfix.evidence["rows"]["train"]["anomalous"] == 0 < hotfix.evidence["rows"]["report"]["anomalous"]
    assert (
        hotfix.evidence["report"]["after"]["asr_star"]["rate"] < hotfix.evidence["report"]["before"]["asr_star"]["rate"]
    )


def test_the_page_of_a_label_free_fit_says_that_no_attack_judged_it():
    html = fit_page(from_clean_rows("oneclass", True), "m.onnx")
    assert "Fitted only on clean requests" in html and "There was no attack to judge it by" in html


@pytest.mark.parametrize("detector", ["profile", "oneclass"])
def test_something_to_fit_on_is_needed(detector):
    clean = toys.many_clean(False) if detector == "profile" else None
    with pytest.raises(AtpatchError) as error:
        fit(toys.toy(False).model, None, clean, detector=detector, threads=1)
    assert error.value.code == "ATP060"


def test_statistic_scores_agree_with_the_oracle():
    rng = np.random.default_rng(2)
    maps = rng.dirichlet(np.ones(7), size=(3, 2, 7)).astype(np.float32)
    valid = np.ones((3, 7), bool)
    valid[1, 5:] = False
    maps[1, :, :, 5:] = 0
    want = oracle.statistic(maps, valid, Statistic(exempt=()), self_attention=True)
    np.testing.assert_allclose(statistic_scores(Statistic(exempt=()), maps, valid), want, rtol=1e-9)


@pytest.mark.parametrize("places", [None, 6])
def test_moments_come_out_as_numpy_has_them(places):
    rng = np.random.default_rng(1)
    features, chosen = rng.normal(size=(40, 6, 3)), rng.random((40, 6)) < 0.8
    moments = Moments(places, 3)
    moments.add(features[:15], chosen[:15])
    moments.add(features[15:], chosen[15:])
    mean, covariance = moments.mean_and_covariance()
    parts = [features[chosen]] if places is None else [features[chosen[:, k], k] for k in range(places)]
    np.testing.assert_allclose(np.reshape(mean, (-1, 3)), [part.mean(0) for part in parts])
    np.testing.assert_allclose(
        np.reshape(covariance, (-1, 3, 3)), [np.cov(part.T, bias=True) for part in parts], atol=1e-9
    )


@pytest.mark.parametrize("places", [None, 6])
def test_scores_in_nats_fall_off_by_e_a_unit(places):
    rng = np.random.default_rng(3)
    maps = rng.dirichlet(np.ones(6), size=(400, 2, 6)).astype(np.float32)
    features, everywhere = profile_features(maps), np.ones((400, 6), bool)
    moments = Moments(places, features.shape[2])
    moments.add(features, everywhere)
    raw = describe(moments, exempt=(), probes=(0,))
    before = surprise(raw, features, everywhere)
    start, rate = tail(before.ravel(), 0.95)
    detector: OneClass = in_nats(raw, start, rate)
    np.testing.assert_allclose(surprise(detector, features, everywhere), (before - start) * rate, atol=1e-3)
    nats = surprise(detector, features, everywhere).ravel()
    assert (nats > 0).mean() == pytest.approx(0.05, abs=0.01)
    beyond = nats[nats > np.quantile(nats, 0.99)]
    assert (beyond - beyond.min()).mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("places", [None, 6])
def test_both_signals_score_as_the_oracle_says(places):
    rng, everywhere = np.random.default_rng(3), np.ones((400, 6), bool)
    maps, values = rng.dirichlet(np.ones(6), size=(400, 2, 6)).astype(np.float32), rng.normal(size=(400, 2, 6, 4))
    norms = ValueNorms(rng.normal(size=(2, 4, 4)).astype(np.float32))
    signals = {"attention": profile_features(maps), "norms": norm_features(values, norms, batch=400, heads=2)}
    moments = {name: Moments(places, features.shape[2]) for name, features in signals.items()}
    for name, features in signals.items():
        moments[name].add(features, everywhere)
    second = in_nats(describe_norms(moments["norms"], norms), 0.5, 2.0)
    detector = replace(describe(moments["attention"], exempt=(), probes=(0,)), norms=second)
    ours = [surprise(one, signals[name], everywhere) for name, one in (("attention", detector), ("norms", second))]
    want = oracle.oneclass(maps, None, detector, True, values)
    np.testing.assert_allclose(sum(np.maximum(one, 0.0) for one in ours), want, rtol=1e-3, atol=1e-3)


def test_where_tokens_move_only_a_column_that_writes_more_stands_out_by_its_norms():
    rng = np.random.default_rng(4)
    moments = Moments(None, 3)
    moments.add(rng.normal(size=(500, 4, 3)) * 0.1, np.ones((500, 4), bool))
    columns = np.float32([[[0.5, 0.5, 0.5], [-0.5, -0.5, -0.5], [0.0, 0.0, 0.0], [0.5, -0.5, 0.0]]])
    loud, quiet, usual, mixed = surprise(describe_norms(moments, ValueNorms()), columns, np.ones((1, 4), bool))[0]
    assert loud > 2 * mixed > 0
    assert quiet < 1 and usual < 1


# --- unfairness


def flip_data() -> DataSet:
    """Two stable rows, then two unfair pairs."""
    return DataSet.from_arrays(
        {
            "x": np.zeros((6, 1)),
            "labels": np.array([0, 1, 1, 1, 0, 0]),
            "columns": np.array([[0], [0], [1], [1], [1], [1]]),
            "pair": np.array([-1, -1, 0, 1, 0, 1]),
            "group": np.array([0, 1, 2, 2, 3, 3]),
        }
    )


def test_unfairness_is_what_is_left_of_the_groups_that_disagree():
    part = Part(np.arange(2), np.arange(2, 6))
    judge = Judge(flip_data(), np.array([0, 1, 1, 0, 0, 1]))
    score = judge.score(part, np.array([0, 1, 1, 1, 0, 1]))
    assert (score.attack, score.left, score.lost) == (0.5, 1, pytest.approx(1 / 6))
    figures = judge.figures(part, np.array([0, 1, 1, 1, 0, 1]))
    assert (figures["unfair"]["k"], figures["unfair"]["n"]) == (1, 2)
    assert "recovered" not in figures


def test_in_a_flip_set_accuracy_and_changes_are_of_all_requests_as_they_came():
    """Rows 0 and 1 are what no value changes, 2 and 4 are requests whose answer hangs on the attribute, 3 and 5 their
    altered twins.
    """
    part = Part(np.arange(2), np.arange(2, 6))
    original = np.array([0, 1, 1, 0, 0, 1])
    judge = Judge(flip_data(), original)
    figures = judge.figures(part, np.array([0, 1, 0, 0, 0, 0]))
    assert (figures["clean_changed"]["k"], figures["clean_changed"]["n"]) == (1, 4)
    assert (figures["accuracy"]["k"], figures["accuracy"]["n"]) == (3, 4)


def test_rows_of_one_group_stay_in_one_part():
    count = 40
    data = DataSet.from_arrays(
        {
            "x": np.zeros((3 * count, 1)),
            "columns": np.repeat([False, True, True], count)[:, None],
            "pair": np.concatenate([np.full(count, -1), np.arange(2 * count) % count]),
            "group": np.concatenate([np.arange(count), count + np.arange(count), count + np.arange(count)]),
        }
    )
    joined = join(data, DataSet.from_arrays({"x": np.zeros((10, 1))}))
    assert len(np.unique(joined.group[-10:])) == 10 and joined.group[-10:].min() > data.group.max()
    for part in (parts := split(joined, 0)).train, parts.selection, parts.report:
        own = np.isin(joined.group, joined.group[part.rows])
        np.testing.assert_array_equal(np.flatnonzero(own), part.rows)


def test_static_takes_the_labeled_column_in_every_request():
    toy = toys.toy(padded=False)
    hotfix = fit(toy.model, toy.debug, detector="static", threads=1)
    detectors = [one.plan.detector for one in hotfix.sites if not is_silent(one.plan)]
    assert {detector.columns for detector in detectors} == {(toys.FIXED_PLACE,)}
    assert hotfix.evidence["report"]["clean_flagged"]["rate"] == 1.0
    assert toys.outcome(hotfix, False)["asr_star"] <= 0.1


def test_static_refuses_columns_that_move():
    with pytest.raises(AtpatchError) as error:
        fit(toys.toy(True).model, toys.toy(True).debug, detector="static", threads=1)
    assert error.value.code == "ATP056" and "moves" in error.value.fix
