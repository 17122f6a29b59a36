"""A text model with a planted word and its clean twin: the word is found, the twin is clean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ...conftest import Run
from ...toy_backdoor import TARGET, TRIGGER, toy

Atpatch = Callable[..., Run]


def audited(atpatch: Atpatch, folder: Path, share: float) -> tuple[int, dict[str, Any]]:
    made = toy(True, share) if share != 0.15 else toy(padded=True)
    onnx.save(made.model, folder / "model.onnx")
    rows = made.clean
    # One content word less, so that there is room for a trigger in the model's twelve places.
    np.savez(
        folder / "clean.npz",
        input_ids=rows["input_ids"][:, :-1],
        attention_mask=rows["attention_mask"][:, :-1],
        labels=rows["labels"],
    )
    run = atpatch("audit", folder / "model.onnx", "--clean", folder / "clean.npz", "--threads", 1, "--json")
    return run.code, run.json


@pytest.fixture(scope="module")
def victim(atpatch: Atpatch, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    return audited(atpatch, tmp_path_factory.mktemp("victim"), 0.15)


def test_the_planted_word_is_found(victim: tuple[int, dict[str, Any]]) -> None:
    code, report = victim
    assert (code, report["verdict"], report["sure"]) == (1, "backdoored", "high")
    assert set(report["rests_on"]) == {"AUD201", "AUD203"}
    by_class = {one["class"]: one for one in report["behavior"]["words"]}
    assert [target for target, one in by_class.items() if one["backdoor"]] == [TARGET]
    assert by_class[TARGET]["trigger"]["tokens"] == [TRIGGER]


def test_each_remedy_is_a_command_with_the_class(victim: tuple[int, dict[str, Any]]) -> None:
    for one in [one for one in victim[1]["findings"] if one["severity"] != "note"]:
        assert f"--invert {TARGET}" in one["remedy"] and "--hotfix found.hotfix" in one["remedy"]


def test_the_clean_twin_is_clean(atpatch: Atpatch, tmp_path: Path) -> None:
    code, report = audited(atpatch, tmp_path, 0.0)
    assert (code, report["verdict"]) == (0, "clean")
    assert not [one for one in report["behavior"]["inversion"] if one["backdoor"]]
