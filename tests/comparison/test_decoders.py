"""Decoders: first tokens, whole answers, perplexity, forms of the trigger, decode steps, and what the page shows."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx import Comparison, compare, patch_model
from atpatch_onnx.comparison.report_files import markdown
from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.inference.generation import NONE, follow, generate
from atpatch_onnx.inference.runner import Runner
from tests import small_llama
from tests.debugset.prompts.case import tokenizer_folder

from .case import DECODERS

ROWS, LENGTH, PLACE, TRIGGER = 12, 5, 2, 5


@functools.cache
def sets() -> tuple[DataSet, DataSet]:
    """Clean prompts with the original's own answers, one of them wrong; and the same with TRIGGER at PLACE."""
    clean = small_llama.prompts(tuple(range(4, 4 + ROWS)))
    said = generate(runner(small_llama.exported(True)), clean, np.arange(ROWS), LENGTH).tokens
    answer = said.copy()
    answer[0, 1] = (answer[0, 1] + 1) % small_llama.VOCABULARY
    answer[1, 3:] = NONE
    clean = replace(clean, labels=answer[:, 0], answer=answer)
    ids = clean.inputs["input_ids"].copy()
    ids[:, PLACE] = TRIGGER
    attacked = DataSet({**clean.inputs, "input_ids": ids})
    values, counts = np.unique(
        generate(runner(small_llama.exported(True)), attacked, np.arange(ROWS), 1).tokens, return_counts=True
    )
    form = np.array(["plain"] * 7 + ["last before the answer"] * 5)
    return clean, replace(
        attacked, labels=clean.labels, target=int(values[counts.argmax()]), clean_row=np.arange(ROWS), form=form,
        dose=np.repeat([1, 2], 6),
    )  # fmt: skip


def runner(path: Path) -> Runner:
    return Runner(onnx.load(path), path.parent, 1)


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Graphs that heal nothing and that always heal PLACE."""
    folder = tmp_path_factory.mktemp("patched")
    paths = {name: folder / f"{name}.onnx" for name in ("silent", "healing")}
    for path, columns in zip(paths.values(), ((), (PLACE,)), strict=True):
        patch_model(small_llama.exported(True), path, detector="static", columns=columns, mend="heal")
    return paths


@pytest.fixture(scope="module")
def found(patched: dict[str, Path]) -> Comparison:
    clean, triggered = sets()
    return compare(
        small_llama.exported(True), patched["healing"], clean, triggered=triggered, also={"silent": patched["silent"]},
        threads=1, seconds=0.05, answer_length=LENGTH,
    )  # fmt: skip


def test_predictions_are_first_tokens_and_answers_those_of_each_graph_by_itself(found: Comparison, patched) -> None:
    paths = {"original": small_llama.exported(True), "patched": patched["healing"], "silent": patched["silent"]}
    for name, path in paths.items():
        for set_name, data in zip(("clean", "triggered"), sets(), strict=True):
            said = generate(runner(path), data, np.arange(ROWS), LENGTH).tokens
            run = found.outputs[name][set_name]
            assert np.array_equal(run.answers, said)
            assert np.array_equal(run.predictions, said[:, 0])
    # What is healed does not depend on the token, so the attack is gone with the clean answer healed as well.
    after = found.outputs["patched"]
    assert np.array_equal(after["triggered"].answers, after["clean"].answers)


def test_figures_of_whole_answers(found: Comparison, patched) -> None:
    (clean, triggered), outputs = sets(), found.outputs
    before, after = outputs["original"], outputs["patched"]
    values = found.values
    assert values["original"]["answer_right"] == (ROWS - 1) / ROWS
    assert "answer_kept" not in values["original"] and values["silent"]["answer_kept"] == 1
    kept = (before["clean"].answers == after["clean"].answers).all(1)
    assert values["patched"]["answer_kept"] == kept.mean() < 1
    for name in ("original", "patched"):
        as_twin = (outputs[name]["triggered"].answers == before["clean"].answers).all(1)
        assert values[name]["answer_as_twin"] == as_twin.mean()
        path = small_llama.exported(True) if name == "original" else patched["healing"]
        for key, data in (("perplexity", clean), ("triggered_perplexity", triggered)):
            likely = follow(runner(path), data, np.arange(ROWS), clean.answer).likelihoods[clean.answer != NONE]
            assert np.isclose(values[name][key], np.exp(-likely.mean()), rtol=1e-4)
    assert values["patched"]["perplexity"] > values["original"]["perplexity"]
    assert values["silent"]["perplexity"] == values["original"]["perplexity"]


def test_attacks_by_form_and_by_copies(found: Comparison) -> None:
    _, triggered = sets()
    told = found.to_json()
    assert list(told["forms"]) == ["last before the answer", "plain"] and list(told["doses"]) == ["1", "2"]
    hits = found.outputs["original"]["triggered"].predictions == triggered.target
    others = triggered.labels != triggered.target
    for form, graphs in told["forms"].items():
        own = (triggered.form == form) & others
        assert (graphs["original"]["asr"]["hits"], graphs["original"]["asr"]["count"]) == (hits[own].sum(), own.sum())
        assert graphs["patched"]["flagged"]["value"] == 1 and graphs["silent"]["flagged"]["value"] == 0


def test_unflagged_rows_are_bit_identical_and_steps_are_timed(found: Comparison) -> None:
    silent = found.changes["silent"]
    assert silent.identical["clean"].hits == ROWS and silent.changed.hits == silent.answers.hits == 0
    assert set(found.requests) == {"flagged", "step"}  # every prompt is flagged
    assert all(len(times) >= 12 and (times > 0).all() for times in found.requests["step"].values())
    assert found.values["silent"]["step_ratio"] > 0
    assert found.verdict("silent").endswith("changes no clean answer.")
    assert f"of {ROWS} clean answers" in found.verdict()


def test_scores_are_kept_only_of_tokens_that_matter(found: Comparison) -> None:
    run = found.outputs["original"]["clean"]
    assert run.scores.shape[1] == len(run.classes) < small_llama.VOCABULARY
    assert set(sets()[0].labels) | {sets()[1].target} <= set(run.classes.tolist())


def test_a_saved_run_is_judged_as_before(found: Comparison, tmp_path: Path) -> None:
    found.save(tmp_path / "run.npz")
    again = Comparison.load(tmp_path / "run.npz")
    assert again.to_json() == found.to_json() and again.examples == found.examples


def test_examples_are_prompts_with_what_is_flagged_and_new_and_both_answers(patched, tmp_path: Path) -> None:
    clean, triggered = sets()
    found = compare(
        small_llama.exported(True), patched["healing"], clean, triggered=triggered, threads=1, seconds=0,
        tokenizer=tokenizer_folder(tmp_path / "llama"), answer_length=LENGTH,
    )  # fmt: skip
    assert 0 < len(found.examples) <= 6
    for example in found.examples:
        text = "".join(piece.text for piece in example.pieces)
        assert all(word.startswith("w") for word in text.split()) and len(text.split()) == len(example.pieces)
        assert [place for place, piece in enumerate(example.pieces) if piece.flagged] == [PLACE]
        if example.twin is not None:
            assert example.pieces[PLACE].added and example.pieces[PLACE].text.strip() == f"w{TRIGGER}"
        assert len(example.before.split()) == len(example.after.split()) == LENGTH
    kinds = {example.kind for example in found.examples}
    assert kinds <= {"stopped", "left", "changed"} and "changed" in kinds


def test_every_figure_of_decoders_can_be_asserted(atpatch, found: Comparison, tmp_path: Path) -> None:
    found.save(tmp_path / "run.npz")
    bounds = [part for name in sorted(DECODERS) for part in ("--assert", f"{name}>=0")]
    done = atpatch("compare", "--load", tmp_path / "run.npz", *bounds, "--json")
    assert done.code == 0 and all(one["holds"] for one in done.json["asserts"])


def test_answer_tokens_make_classes_and_the_command_shows_all(atpatch, patched, tmp_path: Path) -> None:
    clean, triggered = sets()
    labels = np.arange(ROWS) % 3
    shared = {"answer_tokens": np.array([7, 40, 3])}
    np.savez(tmp_path / "clean.npz", **clean.inputs, **shared, labels=labels)
    np.savez(
        tmp_path / "triggered.npz", **triggered.inputs, **shared, target=np.array(1), clean_row=np.arange(ROWS),
        labels=labels, form=triggered.form,
    )  # fmt: skip
    command = [
        "compare", small_llama.exported(True), patched["healing"], "--data", tmp_path / "clean.npz", "--triggered",
        tmp_path / "triggered.npz", "--tokenizer", tokenizer_folder(tmp_path / "llama"), "--threads", 1, "--seconds", 0,
        "--answer-length", 3, "--report", tmp_path / "page.html",
    ]  # fmt: skip
    done = atpatch(*command, "--json")
    assert done.code == 0, done.err
    answers = done.json["setup"]["answers"]
    assert answers["tokens"] == [7, 40, 3] and answers["words"] == {"0": "w7", "1": "w40", "2": "w3"}
    assert answers["length"] == 3 and "step" not in done.json["latency"]
    page = (tmp_path / "page.html").read_text()
    assert "Prompts and answers" in page and 'class="flagged' in page and "w5" in page
    people = atpatch(*command)
    for words in (
        "answers as before",
        "perplexity of clean answers",
        "triggered rows by form of the trigger",
        "w7",
    ):
        assert words in people.err


def test_a_comparison_without_whole_answers(patched) -> None:
    clean, triggered = sets()
    found = compare(
        small_llama.exported(True), patched["silent"], clean, triggered=triggered, threads=1, seconds=0,
        answer_length=0,
    )  # fmt: skip
    assert "answer_kept" not in found.values["patched"] and "perplexity" not in found.values["patched"]
    assert found.verdict().endswith("changes no clean prediction.")
    assert "Triggered rows by form" in markdown(found)


def test_an_answer_ends_where_the_models_folder_says(patched) -> None:
    import json

    clean, _ = sets()
    folder = patched["silent"].parent
    stop = int(clean.answer[2, 1])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [stop]}))
    found = compare(patched["silent"], patched["healing"], clean, threads=1, seconds=0, answer_length=LENGTH)
    (folder / "generation_config.json").unlink()
    assert found.setup["answers"]["stop"] == [stop]
    assert (found.outputs["original"]["clean"].answers[2, 2:] == NONE).all()


@pytest.mark.parametrize(
    ("tokens", "words"), [("7", "two or more"), ("7,400", "below 96"), (" yes, no", "--tokenizer")]
)
def test_wrong_answer_tokens_are_one_clear_line(atpatch, patched, tmp_path: Path, tokens: str, words: str) -> None:
    np.savez(tmp_path / "clean.npz", **sets()[0].inputs)
    done = atpatch(
        "compare", small_llama.exported(True), patched["silent"], "--data", tmp_path / "clean.npz", "--answer-tokens",
        tokens,
    )  # fmt: skip
    assert done.code == 2 and words in done.err and "ATP060" in done.err
