"""Merged decoders of T5, BART and Whisper do what the two files that they were merged of do, healed or not."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.cache_branches import find_merged
from rewriters.finding.finder import find_sites
from rewriters.finding.key_value import HealingPlaces, healing_places
from rewriters.plan import PatchPlan, SitePlan, Static
from tests.merged import MERGED, seq2seq

from ..graphs import session

Feeds = dict[str, np.ndarray]
FILES = ("decoder_model.onnx", "decoder_with_past_model.onnx")
LENGTHS = (2, 1, 1, 2)
"""The first tokens, two steps, two tokens at once."""
COLUMNS = (1, 5)
"""One of the first tokens, one of the last ones."""


@functools.cache
def load(family: str, name: str) -> onnx.ModelProto:
    return onnx.load(seq2seq(family) / name)


def healed(model: onnx.ModelProto, columns: tuple[int, ...], gating: str = "if") -> onnx.ModelProto:
    sites = find_sites(model)[0]
    merged = find_merged(model, sites)
    places = healing_places(model if merged is None else merged.prompts.model)
    assert isinstance(places, HealingPlaces)
    plans = {name: SitePlan(Static(columns)) for name in places.judged}
    plan = PatchPlan(plans, passes="two", groups=(places.judged,), mend="heal", gating=gating)  # type: ignore[arg-type]
    return patch(model, plan if merged is None else merged.spread(plan), sites)


def answers(*models: onnx.ModelProto) -> list[Feeds]:
    """What a merged decoder, or one without a past and one with it, says call after call."""
    live, rng = [session(model) for model in models], np.random.default_rng(0)
    inputs = {value.name: value.shape for one in live for value in one.get_inputs()}
    width, frames = inputs["encoder_hidden_states"][2], inputs["encoder_hidden_states"][1]
    frames = frames if isinstance(frames, int) else 6
    given = {
        "encoder_hidden_states": rng.normal(size=(2, frames, width)).astype(np.float32),
        "encoder_attention_mask": np.array([[1] * frames, [1] * (frames - 2) + [0] * 2]),
    }
    # a past that the branch without one does not read
    past = {
        name: np.zeros((2, shape[1], shape[2] if isinstance(shape[2], int) else 0, shape[3]), np.float32)
        for name, shape in inputs.items()
        if name.startswith("past")
    }
    ids, done, said = rng.integers(3, 90, (2, sum(LENGTHS))), 0, list[Feeds]()
    for length in LENGTHS:
        call = {**given, **past, "input_ids": ids[:, done : done + length], "use_cache_branch": np.array([done > 0])}
        run = live[-1 if said else 0]
        names = [value.name for value in run.get_outputs()]
        found = run.run(names, {value.name: call[value.name] for value in run.get_inputs()})
        said.append(dict(zip(names, found, strict=True)))
        for name in past:  # later steps give out no keys of the encoder's states, or empty ones
            kept = said[-1].get(name.replace("past_key_values", "present"))
            past[name] = past[name] if kept is None or not kept.size else kept
        done += length
    return said


def assert_identical(one: list[Feeds], other: list[Feeds]) -> None:
    for call, (first, second) in enumerate(zip(one, other, strict=True)):
        names = [name for name in first if name in second]
        assert len(names) > 4
        assert all(first[name].tobytes() == second[name].tobytes() for name in names), call


@pytest.mark.parametrize(("family", "gating"), [("t5", "if"), ("t5", "none"), ("bart", "if"), ("whisper", "if")])
def test_healed_or_not_it_answers_as_its_two_files_do(family: str, gating: str) -> None:
    merged, parts = load(family, MERGED), [load(family, name) for name in FILES]
    before, after = answers(merged), answers(healed(merged, COLUMNS, gating))
    assert_identical(answers(*parts), before)
    assert_identical(answers(healed(merged, (), gating)), before)
    assert_identical(answers(*(healed(part, COLUMNS, gating) for part in parts)), after)
    assert not np.allclose(after[0]["logits"], before[0]["logits"], atol=1e-3)


@pytest.mark.parametrize("family", ["t5", "whisper"])
def test_only_the_decoders_own_rows_are_healed(family: str) -> None:
    before, after = answers(load(family, MERGED)), answers(healed(load(family, MERGED), COLUMNS))
    was, now = (said[-1]["present.0.decoder.value"] for said in (before, after))
    assert np.array_equal(now[:, :, COLUMNS], was[:, :, [place - 1 for place in COLUMNS]])
    others = [place for place in range(sum(LENGTHS)) if place not in COLUMNS]
    assert np.array_equal(now[:, :, others], was[:, :, others])
    assert after[0]["present.0.encoder.value"].tobytes() == before[0]["present.0.encoder.value"].tobytes()


def test_unpatch_gives_back_the_original() -> None:
    model = load("t5", MERGED)
    assert unpatch(healed(model, COLUMNS)).SerializeToString() == model.SerializeToString()
