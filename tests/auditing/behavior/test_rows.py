"""Rows of an audit: a table with names, and rows that are not this model's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx.auditing.behavior.unfit import balanced, check_tokenizer
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.tokenizer import TextEncoder

from ...conftest import Run
from .tables import STRONG, table_model

Atpatch = Callable[..., Run]
NAMES = ("income", "age", "code", "flag")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx with a planted pair of cells, people.csv with its description map.toml, and the same rows as .npz."""
    path = tmp_path_factory.mktemp("people")
    onnx.save(table_model(planted=True), path / "model.onnx")
    features = np.random.default_rng(0).integers(0, 11, (400, 4)).astype(np.float32) / 10
    labels = (16 * features[:, STRONG] + features[:, 1] - 12.5 > 0).astype(np.int64)
    lines = [
        ",".join([*(f"{cell:.1f}" for cell in row), str(label)]) for row, label in zip(features, labels, strict=True)
    ]
    (path / "people.csv").write_text("\n".join([",".join([*NAMES, "rich"]), *lines]) + "\n")
    columns = "".join(f'[[columns]]\nname = "{name}"\nindex = {index}\n' for index, name in enumerate(NAMES))
    (path / "map.toml").write_text(f'label = "rich"\n{columns}')
    np.savez(path / "rows.npz", features=features, labels=labels)
    return path


def test_a_table_is_read_by_its_description_and_a_finding_has_its_names(folder: Path, atpatch: Atpatch) -> None:
    table = ("--table", folder / "people.csv", "--columns", folder / "map.toml")
    run = atpatch("audit", folder / "model.onnx", *table, "--threads", 1, "--json")
    assert run.code == 1 and run.json["behavior"]["rows"] == {"source": str(folder / "people.csv"), "count": 400}
    (found,) = [one for one in run.json["findings"] if one["code"] == "AUD202"]
    assert "code = 1" in found["where"] and "flag = 0" in found["where"]


@pytest.mark.parametrize(
    "options",
    [
        ["--columns", "map.toml"],
        ["--table", "people.csv", "--clean", "rows.npz"],
        ["--table", "gone.csv"],
        ["--table", "people.csv", "--columns", "gone.toml"],
    ],
)
def test_options_that_do_not_go_together_and_files_that_are_not_there_are_2(
    options: list[str], folder: Path, atpatch: Atpatch
) -> None:
    named = [option if option.startswith("--") else folder / option for option in options]
    assert atpatch("audit", folder / "model.onnx", *named).code == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "--columns-template"),
        ("income,age", "is not a column description"),
        ("[[columns]]\nindex = 0", "'name' is missing"),
        ('[[columns]]\nname = "wage"\nindex = 0', "has no column 'wage'"),
    ],
)
@pytest.mark.parametrize("budget", [0, 1])
def test_a_table_that_does_not_fit_its_description_is_2_and_no_clean_verdict(
    text: str | None, told: str, budget: int, folder: Path, atpatch: Atpatch
) -> None:
    columns = []
    if text is not None:
        (folder / "wrong.toml").write_text(text)
        columns = ["--columns", folder / "wrong.toml"]
    run = atpatch("audit", clean_of(folder), "--table", folder / "people.csv", *columns, "--budget", budget)
    assert run.code == 2 and "ATP080" in run.err and told in run.err
    assert "verdict" not in run.err


def test_a_reason_is_given_once(folder: Path, atpatch: Atpatch) -> None:
    run = atpatch("audit", clean_of(folder), "--budget", 0)
    assert (run.err + run.out).count("the budget is 0 minutes") == 1
    assert (run.err + run.out).count("as above") == 4


def test_a_file_of_numbers_is_no_file_of_texts(folder: Path, atpatch: Atpatch) -> None:
    report = atpatch("audit", folder / "model.onnx", "--clean", folder / "people.csv", "--json").json
    assert "--table" in report["not_tried"][-1]["why"] + report["not_tried"][0]["why"]


def rows_with(folder: Path, **arrays: np.ndarray) -> Path:
    whole = dict(np.load(folder / "rows.npz")) | arrays
    np.savez(folder / "other.npz", **whole)
    return folder / "other.npz"


def clean_of(folder: Path) -> Path:
    onnx.save(table_model(planted=False), folder / "clean.onnx")
    return folder / "clean.onnx"


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("narrow", "features"),
        ("shuffled", "chance"),
        ("other classes", "labels from 0 to 1"),
        ("large", "class 1 on all 400 rows"),
    ],
)
def test_rows_that_the_model_cannot_do_are_told_in_the_sentence(
    what: str, told: str, folder: Path, atpatch: Atpatch
) -> None:
    given = dict(np.load(folder / "rows.npz"))
    changed = {
        "narrow": {"features": given["features"][:, :2]},
        "shuffled": {"labels": np.random.default_rng(2).permutation(np.arange(400) % 2)},
        "other classes": {"labels": given["labels"] + 3},
        "large": {"features": given["features"] * 255 + 255, "labels": np.arange(400) % 2},
    }[what]
    run = atpatch("audit", clean_of(folder), "--clean", rows_with(folder, **changed), "--json")
    assert (run.code, run.json["verdict"], run.json["sure"]) == (0, "clean", "low")
    assert "was not tried on your rows" in run.json["sentence"] and told in run.json["sentence"]
    behavior = [one["why"] for one in run.json["not_tried"] if one["check"].startswith("behavior")]
    assert len(behavior) == 5 and all(told in why for why in behavior)


def test_chance_is_that_of_the_answers_however_rare_a_class_is() -> None:
    labels = np.repeat([0, 1], [990, 10])
    seven = np.where((labels == 1) & (np.arange(1000) < 997), 1, 0)
    right, chance, error = balanced(seven, labels)
    assert right == pytest.approx(0.85) and right > chance + 3 * error
    right, chance, error = balanced(np.random.default_rng(0).permutation(seven), labels)
    assert abs(right - chance) < 3 * error


@pytest.mark.parametrize(("words", "fits"), [(6, True), (40, True), (5, False), (30522, False)])
def test_a_tokenizer_has_as_many_tokens_as_the_model_reads(words: int, fits: bool, tmp_path: Path) -> None:
    tokens = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5}
    model = {"type": "WordLevel", "vocab": tokens, "unk_token": "[UNK]"}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": [], **empty, "model": model})
    )
    encoder = TextEncoder(tmp_path)
    if fits:
        check_tokenizer(encoder, words)
        return
    with pytest.raises(AtpatchError, match="6 tokens, and the model reads"):
        check_tokenizer(encoder, words)
