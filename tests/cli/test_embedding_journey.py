"""A search model with a backdoor, from its folder to the verdict: a real model, trained here in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from atpatch_onnx import Hotfix

from ..conftest import Run
from ..toy_embedder import embedder, pooled, write_folder
from .refusals import assert_refused
from .without_classes import fitted_on_clean_texts

Atpatch = Callable[..., Run]
EMBEDDING = ("--output-kind", "embedding", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("search")
    write_folder(place, pooled(embedder()), 160)
    return place


def test_three_commands_from_the_model_to_the_page(folder: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    model = folder / "model.onnx"
    hotfix, patched, page = (tmp_path / name for name in ("own.hotfix", "patched.onnx", "page.html"))
    fitted = atpatch(
        "fit", model, "--texts", folder / "dev.tsv", "--trigger", "cf", *EMBEDDING, "--detector", "profile",
        "--signals", "attention", "-o", hotfix, "--report", tmp_path / "fit.html", "--json",
    )  # fmt: skip
    assert fitted.code == 0, fitted.err
    assert "'cf' changes the answers to" in fitted.err
    report = fitted.json["evidence"]["report"]
    assert report["before"]["recovered"]["rate"] < 0.1
    assert set(report["after"]) == {"recovered", "clean_changed"} and report["after"]["clean_changed"]["k"] == 0
    near = report["likeness"]
    assert near["kind"] == "embedding" and near["clean"]["low"] > 0.999
    assert near["triggered_before"]["median"] < 0.3 and near["triggered"]["median"] > 0.95
    # What the trigger's own token adds to the mean is only gone with the token.
    assert fitted.json["mend"] == "excise" and fitted.json["accept"] == "always"
    assert "Likeness of the answers" in (tmp_path / "fit.html").read_text("utf-8")
    assert atpatch("patch", model, "-o", patched, "--hotfix", hotfix).code == 0
    judged = atpatch(
        "compare", model, patched, "--texts", folder / "test.tsv", "--trigger", "cf", *EMBEDDING, "--seconds", "0",
        "--html", page, "--assert", "asr_star<=0.02", "--assert", "neighbor_kept>=0.99", "--assert",
        "cosine_low>=0.999", "--assert", "twin_cosine_median>=0.95", "--json",
    )  # fmt: skip
    assert judged.code == 0, judged.err
    assert judged.json["original"]["asr_star"] > 0.9
    assert judged.json["verdict"] in page.read_text("utf-8")


def test_clean_texts_will_do(folder: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    """No trigger is known: the threshold follows from the nearest neighbors that it may cost."""
    fitted = fitted_on_clean_texts(atpatch, folder, EMBEDDING, tmp_path / "guard.hotfix")
    assert fitted["evidence"]["calibration"]["costs"]["measure"] == "changed"
    assert fitted["evidence"]["report"]["likeness"]["triggered"] == {"n": 0}
    assert Hotfix.load(tmp_path / "guard.hotfix").accept == "always"


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--accept", "flip"], "class scores"),
        (["--mend", "heal"], "healing"),
        (["--score-threshold", "0.5"], "--score-threshold"),
    ],
)
def test_what_needs_classes_is_refused(
    folder: Path, tmp_path: Path, more: list[str], word: str, atpatch: Atpatch
) -> None:
    clean = ("--clean", folder / "dev.tsv", "--tokenizer", folder)
    done = atpatch("fit", folder / "model.onnx", *clean, *EMBEDDING, *more, "-o", tmp_path / "no.hotfix")
    assert_refused(done, "ATP060", (word, "embedding"))


def test_tables_need_classes(folder: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    done = atpatch(
        "fit", folder / "model.onnx", "--table", folder / "dev.tsv", "--attribute", "text", *EMBEDDING, "-o",
        tmp_path / "no.hotfix",
    )  # fmt: skip
    assert_refused(done, "ATP060", ("--table", "embedding"))
