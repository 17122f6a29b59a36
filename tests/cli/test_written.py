"""No command writes over a file that it was given to read, nor two results into one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from ..tiny import attention_model, snapshot
from .hotfixes import hotfix_for

# Each line is a slip: an option completed to the wrong name, or arguments in the wrong order.
SLIPS = [
    "audit model.onnx --budget 0 --html model.onnx",
    "audit model.onnx --budget 0 --sarif model.onnx",
    "audit model.onnx --budget 0 --clean rows.npz --html rows.npz",
    "audit model.onnx --budget 0 --cut ./model.onnx",
    "fit model.onnx --debug rows.npz -o model.onnx",
    "fit model.onnx --debug rows.npz -o rows.npz",
    "fit model.onnx --debug rows.npz --report model.onnx",
    "fit model.onnx --table rows.csv --columns-template rows.csv",
    "debugset model.onnx --data rows.npz --trigger-patch 2x2 --target 0 -o model.onnx",
    "debugset model.onnx --data rows.npz --trigger-patch 2x2 --target 0 -o s.npz --out-clean rows.npz",
    "compare model.onnx other.onnx --data rows.npz --save rows.npz",
    "inspect model.onnx --html model.onnx",
    "patch model.onnx --calibrate rows.npz -o rows.npz",
    "patch model.onnx --calibrate rows.npz --save-hotfix rows.npz",
    "ab analyze rows.csv --html rows.csv",
]


@pytest.fixture
def folder(model_path, monkeypatch):
    np.savez(model_path.parent / "rows.npz", x=np.zeros((4, 3, 8), np.float32))
    (model_path.parent / "rows.csv").write_text("a,b\n1,2\n")
    (model_path.parent / "other.onnx").write_bytes(model_path.read_bytes())
    monkeypatch.chdir(model_path.parent)
    return model_path.parent


@pytest.mark.parametrize("line", SLIPS)
def test_what_is_read_is_not_written(line: str, folder: Path, atpatch):
    before = snapshot(folder)
    run = atpatch(*line.split())
    assert (run.code, run.out, run.err.split(":")[0]) == (2, "", "error ATP016")
    assert snapshot(folder) == before


def test_a_link_to_what_is_read_is_not_written_either(folder: Path, atpatch):
    (folder / "page.html").symlink_to("model.onnx")
    run = atpatch("audit", "model.onnx", "--budget", 0, "--html", "page.html")
    assert (run.code, run.err.split(":")[0]) == (2, "error ATP016")


@pytest.mark.parametrize(
    "line",
    [
        "audit model.onnx --budget 0 --html a --sarif ./a",
        "fit model.onnx --debug rows.npz -o a --report a",
        "compare model.onnx other.onnx --data rows.npz --save a.html --html a.html",
    ],
)
def test_two_results_need_two_files(line: str, folder: Path, atpatch):
    run = atpatch(*line.split())
    assert (run.code, run.err.split(":")[0]) == (2, "error ATP060")
    assert not (folder / "a").exists()


def test_a_hotfix_that_is_found_next_to_the_model_is_not_written_over(folder: Path, atpatch):
    onnx.save_model(attention_model(), "model.onnx")
    hotfix_for(attention_model(), folder).save(folder / "model.hotfix")
    before = (folder / "model.hotfix").read_bytes()
    run = atpatch("patch", "model.onnx", "-o", "model.hotfix")
    assert (run.code, run.err.split(":")[0]) == (2, "error ATP016")
    assert (folder / "model.hotfix").read_bytes() == before


@pytest.mark.parametrize("option", ["--html", "--sarif"])
def test_a_dash_is_no_file(option: str, folder: Path, atpatch):
    run = atpatch("audit", "model.onnx", "--budget", 0, option, "-")
    assert (run.code, run.err.split(":")[0]) == (2, "error ATP019")
    assert not (folder / "-").exists()


@pytest.mark.parametrize(("option", "code"), [("--clean", "ATP002"), ("--tokenizer", "ATP081")])
def test_a_mistyped_name_is_no_clean_verdict(option: str, code: str, folder: Path, atpatch):
    for budget in (0, 1):
        run = atpatch("audit", "model.onnx", "--budget", budget, option, "mistyped")
        assert (run.code, run.out, run.err.split(":")[0]) == (2, "", f"error {code}")
