"""A model that was trained further gets the hotfix of its predecessor, and `patch` says that it is another one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.evidence.case import Case
from models.evidence.successor import measured, page, patched_by

from .digits_case import SETTING, SOURCE, digits_case


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setenv("ATPATCH_CACHE", str(tmp_path))
    case = digits_case()
    shutil.copyfile(SOURCE / "model.hotfix", case.hotfix_file())
    return Case(SETTING, 0, threads=1)


def test_patch_refuses_the_hotfix_of_a_predecessor(case: Case, tmp_path: Path) -> None:
    model = case.victim.file("model.onnx")
    assert patched_by(model, case.hotfix_file()) == {"as it is": "", "forced": ""}
    later = onnx.load_model(model)
    weight = next(tensor for tensor in later.graph.initializer if len(tensor.dims) == 2)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), weight.name))
    onnx.save_model(later, tmp_path / "later.onnx")
    assert patched_by(tmp_path / "later.onnx", case.hotfix_file()) == {"as it is": "ATP054", "forced": ""}
    assert sorted(tmp_path.glob("*.onnx")) == [tmp_path / "later.onnx"], "nothing is left behind"


def test_the_page_tells_a_version_in_a_line(case: Case) -> None:
    figures = measured(case, case, case.hotfix, 0)
    assert figures["patched"]["asr_star"]["value"] < 0.02 < 0.95 < figures["original"]["asr"]["value"]
    whole = {"victim": "digits", "versions": {"onnx": "1"}, "successors": [figures, {**figures, "steps": 7}]}
    assert (
        "| 0 (the victim itself) | " in page(whole) and "| 7 | " in page(whole) and page(whole).endswith("| – | – |\n")
    )
