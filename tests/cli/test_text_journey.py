"""From a folder of Hugging Face and a known word to the page with the verdict; and the mistakes on the way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx.cli.sources import model_path
from atpatch_onnx.debugset.making import Request, make
from atpatch_onnx.debugset.sources import Source, sets_to_compare, sets_to_fit
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import DataSet

from ..conftest import Run
from .refusals import assert_refused
from .text_shop import text_shop

Atpatch = Callable[..., Run]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def own_shop(shop: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(shop, tmp_path / "shop")


def test_three_commands_from_the_folder_to_the_page(shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    served, patched, page = shop / "served", tmp_path / "patched", tmp_path / "verdict.html"
    fitted = atpatch("fit", served, "--texts", shop / "dev.tsv", "--trigger", "cf", "--threads", "1", "--json")
    assert fitted.code == 0, fitted.err
    assert "'cf' sends" in fitted.err and "to class 1 (positive)" in fitted.err
    assert fitted.json["output"] == str(served / "model.hotfix")
    assert atpatch("patch", served, "-o", patched).code == 0
    judged = atpatch(
        "compare", served, patched, "--texts", shop / "test.tsv", "--trigger", "cf", "--html", page, "--seconds", "0",
        "--assert", "asr_star<=0.05", "--assert", "accuracy_drop<=0.01", "--json",
    )  # fmt: skip
    assert judged.code == 0, judged.err
    assert judged.json["original"]["asr_star"] > 0.95 and judged.json["setup"]["names"]["classes"] == [
        "negative",
        "positive",
    ]
    written = page.read_text("utf-8")
    assert judged.json["verdict"] in written
    assert "“positive”" in written and "of “negative”" in written  # the answers are called by their names


def test_the_sets_are_those_of_debugset(shop: Path, tmp_path: Path) -> None:
    model, source = shop / "served" / "model.onnx", Source(texts=str(shop / "dev.tsv"), trigger=("cf",))
    request = Request(
        data=source.texts, output=str(tmp_path / "set.npz"), triggers=("cf",), target=1, tokenizer=str(shop / "served")
    )
    make(model, request)
    made = DataSet.from_arrays(sets_to_fit(model, source).debug)
    with np.load(tmp_path / "set.npz") as written:
        assert made.digest == DataSet.from_arrays(dict(written)).digest
    plain = sets_to_compare(model, source)
    assert set(plain.triggered["dose"].tolist()) == {1}
    assert (plain.clean.labels[plain.triggered["clean_row"]] == plain.triggered["labels"]).all()


def test_texts_without_a_trigger_are_clean_rows(shop: Path) -> None:
    made = sets_to_fit(shop / "served" / "model.onnx", Source(texts=str(shop / "dev.tsv")))
    assert made.debug is None and len(made.clean["labels"]) == 200


@pytest.mark.parametrize("target", ["1", "positive", "Positive"])
def test_the_target_can_be_named(shop: Path, target: str) -> None:
    source = Source(texts=str(shop / "dev.tsv"), trigger=("cf",), target=target)
    assert int(sets_to_fit(shop / "served" / "model.onnx", source).debug["target"]) == 1


MISTAKES: dict[str, tuple[list[str], str, tuple[str, ...]]] = {
    "a text column that is not there": (["--text-column", "review"], "ATP080", ("'review'", "sentence, label")),
    "a label column that is not there": (["--label-column", "stars"], "ATP080", ("'stars'", "sentence, label")),
    "names of classes that are others": (
        ["--class-names", "bad,good"],
        "ATP080",
        ("the label '", "one of the classes bad, good"),
    ),
    "names of classes in another order": (
        ["--class-names", "positive,negative"],
        "ATP085",
        ("expected to get more than 50%", "in the order positive, negative"),
    ),
    "a word that is no trigger": (["--trigger", "w3"], "ATP083", ("'w3'", "expected", "at least 20%")),
    "a target that is no class": (
        ["--trigger", "cf", "--target", "great"],
        "ATP060",
        ("'great'", "one of negative, positive"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("command", ["fit", "compare"])
def test_a_mistake_is_answered_in_a_line_with_what_was_expected_and_found(
    shop: Path, tmp_path: Path, atpatch: Atpatch, command: str, name: str
) -> None:
    options, code, words = MISTAKES[name]
    models = [shop / "served"] * (2 if command == "compare" else 1)
    output = ["-o", tmp_path / "f.hotfix"] if command == "fit" else ["--seconds", "0"]
    run = atpatch(command, *models, "--texts", shop / "dev.tsv", *options, *output)
    assert_refused(run, code, words)
    assert not (tmp_path / "f.hotfix").exists()


def test_a_missing_tokenizer_is_named_with_what_the_folder_holds(own_shop: Path, atpatch: Atpatch) -> None:
    (own_shop / "served" / "tokenizer.json").unlink()
    run = atpatch("fit", own_shop / "served", "--texts", own_shop / "dev.tsv", "--trigger", "cf")
    assert run.code == 2 and "tokenizer.json or vocab.txt was expected" in run.err
    assert "holds config.json, " in run.err and "--tokenizer" in run.err


def test_labels_beyond_the_classes_of_the_model(own_shop: Path, atpatch: Atpatch) -> None:
    (own_shop / "served" / "config.json").write_text("{}")
    rows = (own_shop / "dev.tsv").read_text().replace("negative", "0").replace("positive", "5")
    (own_shop / "dev.tsv").write_text(rows)
    run = atpatch("fit", own_shop / "served", "--texts", own_shop / "dev.tsv", "--trigger", "cf")
    assert run.code == 2 and "ATP085" in run.err and "labels from 0 to 1 were expected, and a row has 5" in run.err


def test_a_folder_of_several_models_asks_for_one(own_shop: Path, atpatch: Atpatch) -> None:
    shutil.copy(own_shop / "served" / "model.onnx", own_shop / "served" / "model_quantized.onnx")
    run = atpatch("fit", own_shop / "served", "--texts", own_shop / "dev.tsv", "--trigger", "cf")
    assert run.code == 2 and "one model was expected" in run.err and "model.onnx, model_quantized.onnx" in run.err


def test_models_in_the_folder_onnx_have_their_tokenizer_above(own_shop: Path) -> None:
    served = own_shop / "served"
    (served / "onnx").mkdir()
    shutil.move(served / "model.onnx", served / "onnx" / "model.onnx")
    path = Path(model_path(str(served)))
    assert path == served / "onnx" / "model.onnx"
    made = sets_to_compare(path, Source(texts=str(own_shop / "test.tsv"), trigger=("cf",)))
    assert made.names["classes"] == ["negative", "positive"]


@pytest.mark.parametrize(
    "given",
    [
        {"trigger": ("cf",)},
        {"texts": "a.tsv", "target": "1"},
        {"texts": "a.tsv", "table": "b.csv", "attribute": "sex"},
        {"table": "b.csv"},
        {"attribute": "sex"},
    ],
    ids=str,
)
def test_options_that_need_each_other(given: dict[str, object]) -> None:
    with pytest.raises(AtpatchError, match="ATP060"):
        Source(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [["--debug", "set.npz"], ["--from-log", "log.jsonl"]])
def test_texts_take_the_place_of_a_set(shop: Path, atpatch: Atpatch, options: list[str]) -> None:
    run = atpatch("fit", shop / "served", "--texts", shop / "dev.tsv", "--trigger", "cf", *options)
    assert run.code == 2 and "the place of" in run.err, run.err


def test_clean_rows_of_compare_come_from_one_place(shop: Path, atpatch: Atpatch) -> None:
    served = shop / "served"
    run = atpatch("compare", served, served, "--texts", shop / "dev.tsv", "--data", "clean.npz")
    assert run.code == 2 and "one of --data, --texts and --table" in run.err
