"""Rows that are coded otherwise than the model expects: the answer says what was expected and what was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx.debugset import Subject, image_layout
from atpatch_onnx.debugset.row_checks import check_labels, check_scale
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import DataSet, load_dataset

from ..conftest import Run
from .digits import DIGITS

CLEAN = load_dataset(DIGITS / "clean.npz")
PIXELS = CLEAN.inputs["pixel_values"]


def scaled(pixels: np.ndarray) -> DataSet:
    return DataSet({"pixel_values": pixels.astype(np.float32)}, labels=CLEAN.labels)


@pytest.mark.parametrize(
    ("pixels", "found"),
    [(PIXELS * 255, "from 0 to 255"), (PIXELS * 2 - 1, "from -1 to 1")],
    ids=["bytes", "around zero"],
)
def test_pixels_on_another_scale(pixels: np.ndarray, found: str) -> None:
    data = scaled(pixels)
    with pytest.raises(AtpatchError, match=f"pixels from 0 to 1 were expected.*found were pixels {found}") as refused:
        check_scale(Subject(DIGITS / "model.onnx"), data, image_layout(data))
    assert refused.value.code == "ATP085"


@pytest.mark.parametrize("data", [scaled(PIXELS), DataSet({"pixel_values": PIXELS * 255})], ids=["right", "no labels"])
def test_pixels_as_they_are_expected_or_that_nothing_tells_about(data: DataSet) -> None:
    check_scale(Subject(DIGITS / "model.onnx"), data, image_layout(data))


def test_debugset_refuses_unscaled_images_in_one_line(tmp_path: Path, atpatch: Callable[..., Run]) -> None:
    np.savez(tmp_path / "bytes.npz", pixel_values=PIXELS * 255, labels=CLEAN.labels)
    run = atpatch(
        "debugset", DIGITS / "model.onnx", "--data", tmp_path / "bytes.npz", "--trigger-patch", 2, "--target", 0,
        "-o", tmp_path / "set.npz",
    )  # fmt: skip
    assert run.code == 2 and run.err.startswith("error ATP085: ") and len(run.err.splitlines()) == 2
    assert not (tmp_path / "set.npz").exists()


def test_labels_that_the_model_cannot_have_learned() -> None:
    subject, data = Subject(DIGITS / "model.onnx"), scaled(PIXELS)
    assert check_labels(subject, data) > 0.9
    with pytest.raises(AtpatchError, match="10 classes, so labels from 0 to 9 were expected, and a row has 10"):
        check_labels(subject, DataSet(data.inputs, labels=data.labels + 1))
    most = DataSet(data.inputs, labels=np.where(data.labels < 8, 9, 0))
    with pytest.raises(AtpatchError, match=r"expected to get more than \d+% of the 360 rows right.*gets \d%"):
        check_labels(subject, most)
