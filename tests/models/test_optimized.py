"""The attacker who searches a patched graph: what it opens, and whose gradients it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.patching.apply import patch_model
from models.evidence.holding.optimized import WORD, Target
from rewriters.plan import Statistic

toys = pytest.importorskip("tests.toy_backdoor", reason="torch trains the toys")

ROWS = 40


@pytest.mark.parametrize(("patched", "own"), [(False, True), (True, False)])
def test_a_patched_model_is_searched_like_any_other(tmp_path: Path, patched: bool, own: bool) -> None:
    made, rows = toys.toy(padded=True), toys.many_clean(padded=True)
    clean = DataSet({name: rows[name][:ROWS] for name in ("input_ids", "attention_mask")})
    original, path = tmp_path / "model.onnx", tmp_path / "patched.onnx"
    onnx.save_model(made.model, original)
    # The statistic takes a median by TopK, of which no gradient is known.
    onnx.save_model(patch_model(made.model, detector=Statistic()) if patched else made.model, path)
    target = Target.of(path, original, clean, 1)
    assert target.own == own and target.subject.asked == ROWS
    assert target.predictions.shape == (ROWS,) and target.graph.embedding("input_ids") is not None
    target.subject.scores(clean.feeds(np.arange(3)))
    assert target.subject.asked == ROWS + 3


@pytest.mark.parametrize(("token", "word"), [("film", True), ("##ing", False), ("[CLS]", False), ("2", False)])
def test_only_whole_words_are_searched(token: str, word: bool) -> None:
    assert bool(WORD.fullmatch(token)) == word
