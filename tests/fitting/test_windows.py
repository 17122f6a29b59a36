"""Decoders whose layers see different tokens: some only a sliding window, some all."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from atpatch_onnx import fit
from atpatch_onnx.cli import cli
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.fitting import probing
from atpatch_onnx.fitting.passes import Wanted
from atpatch_onnx.fitting.probing import Probe, logit, make_probes
from atpatch_onnx.fitting.splits import join, split
from atpatch_onnx.fitting.training import Context
from atpatch_onnx.inference.capture import Capture
from atpatch_onnx.inference.datasets import as_dataset
from atpatch_onnx.inference.padding import MASK
from atpatch_onnx.inference.runner import Runner
from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from tests import backdoored_llama as llama, backdoored_prompts as words

MIXED = ("qwen2", "SFS", 8)
SATURATED = 12.0
"""Logits. onnxruntime's Sigmoid is flat beyond 18."""
ROUNDING = 0.01
"""Logits, of sums in float32."""
MODELS = [MIXED, ("qwen2", "SSF", 3), ("gemma3_text", "SFS", 4)]


@cache
def probes(family: str, layers: str, window: int) -> tuple[Context, Capture, list[Probe]]:
    path = llama.exported(True, llama.windowed(layers, window, family))
    model, data = onnx.load(path), join(as_dataset(llama.debugging_set(60)), None)
    context = Context(model, path.parent, data, split(data, 0), 0, 0.02, 1, lambda *_: None, MASK)
    sites, _ = find_sites(model)
    capture = Capture(model, path.parent, sites, data, context.columns.shape[1], 1, MASK, MASK)
    return context, capture, make_probes(context, capture, Wanted(), [site.id for site in sites])


def flagged(context: Context, capture: Capture, probe: Probe, threshold: float, companion: float) -> np.ndarray:
    """(N, K): what the patched graph flags on the selection part."""
    plan = replace(probe.plan(threshold, companion), telemetry=True)
    runner = Runner(patch(context.model, plan, capture.sites), context.folder, 1).without_padding(MASK)
    name, found = f"atpatch_columns/{probe.sites[0].id}", np.zeros(context.columns.shape, bool)
    for chunk, outputs in runner.batches(context.data, context.parts.selection.rows, 16, [name]):
        columns = outputs[name][: len(chunk)]
        found[chunk, : columns.shape[1]] = columns
    return found


@pytest.mark.parametrize(("family", "layers", "window"), MODELS)
def test_the_fit_flags_what_the_graph_flags(family: str, layers: str, window: int) -> None:
    """One site by itself, and sums of two and of three."""
    context, capture, made = probes(family, layers, window)
    assert [(one.depth, one.plan(0.5, 1.0).joint) for one in made] == [(1, "any"), (2, "sum"), (3, "sum")]
    for probe in made:
        near = np.sort(probe.scores[np.abs(probe.scores) < SATURATED])
        gaps = np.flatnonzero(np.diff(near) > ROUNDING)
        for share, companion in ((0.2, 1.0), (0.6, 0.5)):
            at = gaps[int(share * len(gaps))]
            threshold = float(1 / (1 + np.exp(-(near[at] + near[at + 1]) / 2)))
            sure = np.abs(probe.scores - logit(threshold * companion)) > ROUNDING / 4
            got, want = flagged(context, capture, probe, threshold, companion), probe.flagged(threshold, companion)
            np.testing.assert_array_equal(got & sure, want & sure)
            assert 0 < want.sum() < np.isfinite(probe.scores).sum()


def test_only_sites_that_can_detect_for_healing_are_tried() -> None:
    context, capture, _ = probes(*MIXED)
    (probe,) = make_probes(context, capture, Wanted(), [capture.sites[1].id])
    assert (probe.sites, probe.depth) == (capture.sites[1:2], 2)


def attacked_at(place: int, pairs: int = 60) -> dict[str, np.ndarray]:
    """The trigger is always at one place; five tokens or more follow."""
    rng = np.random.default_rng(3)
    labels = rng.integers(llama.TOPICS, size=pairs)
    clean = [llama.prompt(int(label), rng) for label in labels]
    rows = [*clean, *([*row[:place], llama.TRIGGER, *row[place:]] for row in clean)]
    pair = np.concatenate([np.full(pairs, -1), np.arange(pairs)])
    return {**llama.padded(rows, np.tile(labels, 2)), "pair": pair, "target": np.array(llama.TARGET)}


def test_a_site_that_sees_no_trigger_does_not_detect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter lengths of the same rows would show it some."""
    monkeypatch.setattr(probing, "CUTS", 0)
    path = llama.exported(True, llama.windowed("SFS", 4))
    hotfix = fit(path, attacked_at(1), answer_tokens=llama.ANSWERS, threads=1, force=True)
    probe, skipped = hotfix.evidence["calibration"]["probe"], hotfix.evidence["skipped"]
    assert [site.layer for site in hotfix.sites] == [1]
    assert (probe["depth"], {one["depth"] for one in probe["tried"]}) == (2, {2})
    first, last = (next(why for name, why in skipped.items() if f"layers.{at}" in name) for at in (0, 2))
    assert "sees no labeled column" in first and "sees no labeled column" not in last


@pytest.mark.parametrize(("layers", "place"), [("SSS", 1), ("SFS", 0)], ids=["behind no window", "the first tokens"])
def test_triggers_that_no_site_can_flag_are_refused_in_words(layers: str, place: int) -> None:
    path = llama.exported(True, llama.windowed(layers, 4))
    with pytest.raises(AtpatchError, match="no labeled column can be flagged") as refused:
        fit(path, attacked_at(place), answer_tokens=llama.ANSWERS, threads=1, detector="profile")
    assert refused.value.code == "ATP057" and "nearer to their ends" in refused.value.fix


def test_from_texts_to_a_patch_that_stops_the_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers 0 and 2 see eight tokens, layer 1 sees all."""
    monkeypatch.chdir(tmp_path)
    model = llama.exported(True, llama.windowed("SFS", 8))
    words.write_tokenizer(tmp_path)
    texts = (
        f"--tokenizer . --template '{words.TEMPLATE}' --answer-tokens {words.ANSWER_WORDS} --trigger {words.TRIGGER}"
    )
    bounds = "--seconds 0.1 --assert asr_star<=0.1 --assert clean_flagged<=0.02 --assert accuracy_drop<=0"
    for seed, name in enumerate(("train", "test")):
        words.write_prompts(Path(f"{name}.tsv"), 150, seed)
        command(f"debugset {model} --data {name}.tsv {texts} -o {name}.npz --out-clean c.npz --out-triggered t.npz")
    command(f"fit {model} --debug train.npz -o model.hotfix --threads 1")
    command(f"patch {model} --hotfix model.hotfix -o patched.onnx")
    command(f"compare {model} patched.onnx --data c.npz --triggered t.npz --threads 1 {bounds}")


def command(line: str) -> None:
    done = CliRunner().invoke(cli, shlex.split(line))
    assert done.exit_code == 0, done.output
