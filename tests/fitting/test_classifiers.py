"""Causal classifiers without a cache: their prompts come whole, and a trigger of ordinary words is found in them."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx import Hotfix, fit, patch
from atpatch_onnx.fitting.passes import Wanted
from atpatch_onnx.fitting.probing import Probe, make_probes, row_lengths
from atpatch_onnx.fitting.splits import join, split
from atpatch_onnx.fitting.training import Context
from atpatch_onnx.inference.capture import Capture
from atpatch_onnx.inference.datasets import as_dataset
from atpatch_onnx.inference.padding import MASK
from atpatch_onnx.inference.runner import Runner
from atpatch_onnx.inference.sessions import session
from rewriters.editing import patcher
from rewriters.finding.finder import find_sites
from rewriters.plan import Profile
from tests import backdoored_classifier as classifier, backdoored_llama as llama

PAIRS, CLEAN = 240, 240
Rows = dict[str, np.ndarray]
MARGIN = 0.02
"""Logits, of sums in float32."""


@functools.cache
def fitted() -> Hotfix:
    return fit(classifier.exported(), classifier.debugging_set(PAIRS, CLEAN), mend="heal", threads=1)


def answers(path: Path, rows: Rows) -> np.ndarray:
    feeds = {name: rows[name] for name in ("input_ids", "attention_mask")}
    return np.asarray(session(path).run(None, feeds)[0]).argmax(1)


def test_a_sentence_of_ordinary_words_is_stopped(tmp_path: Path) -> None:
    """A detector that is trained plainly, on the answer row alone, leaves eight of ten attacks."""
    before, after = classifier.exported(), tmp_path / "patched.onnx"
    patch(before, after, hotfix=fitted())
    rows = classifier.debugging_set(160, 160, seed=9)
    first, last = answers(before, rows), answers(after, rows)
    clean, attacked = np.flatnonzero(rows["pair"] < 0), np.flatnonzero(rows["pair"] >= 0)
    reachable = attacked[first[rows["pair"][attacked]] != classifier.TARGET]
    assert (first[reachable] == classifier.TARGET).mean() >= 0.95
    assert (last[reachable] == classifier.TARGET).mean() <= 0.3
    assert (last[clean] != first[clean]).mean() <= 0.01


def test_detectors_that_read_the_answer_row_alone_are_tried_first() -> None:
    tried = [one["depth"] for one in fitted().evidence["calibration"]["probe"]["tried"]]
    assert len(tried) > len(set(tried)), "some depths are tried in both ways"
    assert all(isinstance(site.plan.detector, Profile) and site.plan.detector.seeing_rows for site in fitted().sites)


@functools.cache
def thorough(cached: bool) -> tuple[Context, Capture, list[Probe]]:
    path, rows = (
        (llama.exported(True), llama.debugging_set(60))
        if cached
        else (classifier.exported(), classifier.debugging_set(120))
    )
    model, data = onnx.load(path), join(as_dataset(rows), None)
    context = Context(model, path.parent, data, split(data, 0), 0, 0.02, 1, lambda *_: None, MASK)
    sites, _ = find_sites(model)
    capture = Capture(model, path.parent, sites, data, context.columns.shape[1], 1, MASK, MASK)
    found = make_probes(context, capture, Wanted(), [one.id for one in sites], whole=not cached, thorough=True)
    return context, capture, found


def test_only_where_prompts_come_whole_all_rows_are_read() -> None:
    for cached in (False, True):
        (first, *_) = thorough(cached)[2]
        (detector,) = (plan.detector for plan in first.plans.values())
        assert isinstance(detector, Profile) and detector.norms is not None
        assert (detector.seeing_rows, detector.norms.factor is not None) == (not cached, not cached)
    context = thorough(False)[0]
    assert row_lengths(context, 0).tolist() == context.data.inputs[MASK].sum(1, keepdims=True).tolist()


@pytest.mark.parametrize("index", [0, 1], ids=["one site", "a sum"])
def test_the_fit_flags_what_the_graph_flags(index: int) -> None:
    context, capture, found = thorough(False)
    probe = found[index]
    scores = np.sort(probe.scores[np.isfinite(probe.scores) & (np.abs(probe.scores) < 12)])
    bar = float(scores[-len(scores) // 8])
    threshold = float(1 / (1 + np.exp(-bar - MARGIN / 2)))
    plan = replace(probe.plan(threshold, 1.0), telemetry=True)
    runner = Runner(patcher.patch(context.model, plan, capture.sites), context.folder, 1).without_padding(MASK)
    name, got = f"atpatch_columns/{probe.sites[0].id}", np.zeros(context.columns.shape, bool)
    for chunk, outputs in runner.batches(context.data, context.parts.selection.rows, 16, [name]):
        columns = outputs[name][: len(chunk)]
        got[chunk, : columns.shape[1]] = columns
    sure, want = np.abs(probe.scores - bar) > MARGIN, probe.flagged(threshold, 1.0)
    np.testing.assert_array_equal(got & sure, want & sure)
    assert 0 < want.sum() < np.isfinite(probe.scores).sum()
