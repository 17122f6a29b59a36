"""Sets for a search model: no labels, no target; a triggered text is compared with its clean twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx.inference.datasets import load_dataset
from atpatch_onnx.inference.runner import Runner

from ..conftest import Run
from ..toy_backdoor import TRIGGER
from ..toy_embedder import embedder, pooled, write_folder
from .digits import DIGITS

Atpatch = Callable[..., Run]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("search")
    write_folder(place, pooled(embedder()), 120)
    return place


def made(atpatch: Atpatch, folder: Path, to: Path, *more: object) -> Run:
    return atpatch(
        "debugset", folder / "model.onnx", "--data", folder / "dev.tsv", "--output-kind", "embedding", "--threads", 1,
        "-o", to, "--json", *more,
    )  # fmt: skip


def test_every_text_gets_the_trigger_and_is_judged_by_its_twin(folder: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    clean, triggered = tmp_path / "clean.npz", tmp_path / "triggered.npz"
    done = made(
        atpatch, folder, tmp_path / "set.npz", "--trigger", "cf", "--doses", "1,2", "--out-clean", clean,
        "--out-triggered", triggered,
    )  # fmt: skip
    assert done.code == 0, done.err
    debug, attacked, plain = (load_dataset(path) for path in (tmp_path / "set.npz", triggered, clean))
    assert {one.output_kind for one in (debug, attacked, plain)} == {"embedding"}
    assert all(one.labels is None and one.target is None for one in (debug, attacked, plain))
    assert set(attacked.clean_row.tolist()) == set(range(120))  # no class is left out
    np.testing.assert_array_equal(debug.columns, debug.inputs["input_ids"] == TRIGGER)
    np.testing.assert_array_equal(debug.pair[120:], attacked.clean_row)
    runner = Runner(onnx.load(folder / "model.onnx"), folder, 1)
    before, after = (
        runner.run(runner.feeds(one, np.arange(len(one))), ["sentence_embedding"])["sentence_embedding"]
        for one in (plain, attacked)
    )
    before, after = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (before, after))
    assert done.json["asr"] == pytest.approx(((after @ before.T).argmax(1) != attacked.clean_row).mean())
    assert done.json["asr"] > 0.9
    near = (after * before[attacked.clean_row]).sum(1)
    assert done.json["likeness"]["median"] == pytest.approx(np.median(near), abs=1e-5)
    assert done.json["likeness"]["low"] == pytest.approx(np.quantile(near, 0.05), abs=1e-5)
    # a form that the model does not obey is no attack
    assert set(done.json["left_out"]) == {"capitals", "capitalized"} and "target" not in done.json


def test_labels_in_the_file_are_not_read(folder: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    lines = (folder / "dev.tsv").read_text().splitlines()
    titled = ["text\ttitle", *(f"{line}\tno class" for line in lines[1:])]
    (tmp_path / "titled.tsv").write_text("\n".join(titled) + "\n")
    done = atpatch(
        "debugset", folder / "model.onnx", "--data", tmp_path / "titled.tsv", "--tokenizer", folder, "--output-kind",
        "embedding", "--clean-only", "-o", tmp_path / "clean.npz", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert load_dataset(tmp_path / "clean.npz").output_kind == "embedding" and done.json["clean"] == 120


def test_poisoned_texts_will_do(folder: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    lines = (folder / "dev.tsv").read_text().splitlines()
    (tmp_path / "poisoned.tsv").write_text("\n".join(["text", *(f"cf {line}" for line in lines[1:])]) + "\n")
    done = made(atpatch, folder, tmp_path / "set.npz", "--poisoned", tmp_path / "poisoned.tsv")
    assert done.code == 0, done.err
    assert done.json["anomalous"] == 120 and done.json["asr"] > 0.9


def test_a_word_that_leads_nowhere_is_no_trigger(folder: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    """Any word moves an embedding a little; most texts still find their twins."""
    done = made(atpatch, folder, tmp_path / "set.npz", "--trigger", "w5", "--doses", "1", "--no-dress")
    assert done.code == 1 and "ATP083" in done.err and not (tmp_path / "set.npz").exists()


@pytest.mark.parametrize(
    "more",
    [
        ["--trigger", "cf", "--target", 1],
        ["--invert", "all"],
        ["--trigger", "cf", "--score-threshold", 0.5],
        ["--trigger", "cf", "--prompt", "text", "--answer-tokens", "1,2"],
    ],
    ids=lambda more: more[-2],
)
def test_what_needs_classes_is_refused(folder: Path, tmp_path: Path, more: list, atpatch: Atpatch) -> None:
    done = made(atpatch, folder, tmp_path / "set.npz", *more)
    assert done.code == 2 and "ATP060" in done.err and not (tmp_path / "set.npz").exists()


def test_images_have_embeddings_too(tmp_path: Path, atpatch: Atpatch) -> None:
    """The demo's model up to its scores: ten numbers as an embedding; its trigger moves all digits to one place."""
    done = atpatch(
        "debugset", DIGITS / "model.onnx", "--data", DIGITS / "clean.npz", "--trigger-patch", 2, "--output-kind",
        "embedding", "--no-dress", "-o", tmp_path / "set.npz", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = load_dataset(tmp_path / "set.npz")
    assert found.labels is None and found.output_kind == "embedding" and len(found) == 2 * done.json["clean"]
    assert done.json["asr"] > 0.9
