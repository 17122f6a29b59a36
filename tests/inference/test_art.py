"""A patched model under the attacks and measures of the Adversarial Robustness Toolbox (ART)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atpatch_onnx

from ..debugset.digits import DIGITS

if find_spec("art") is None:
    pytest.skip("tests/third_party.txt is not installed", allow_module_level=True)
TARGET = 0


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("art") / "patched.onnx"
    atpatch_onnx.patch(DIGITS / "model.onnx", path, hotfix=DIGITS / "model.hotfix")
    return path


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, 8, 8) and labels (N,) that are not of the target class."""
    with np.load(DIGITS / "clean.npz") as clean:
        kept = clean["labels"] != TARGET
        return clean["pixel_values"][kept], clean["labels"][kept]


def classifier(path: Path, **controls: Any) -> Any:
    """ART's estimator over a session of ours."""
    from art.estimators.classification import BlackBoxClassifier

    session = atpatch_onnx.session(path)

    def predict(images: np.ndarray) -> np.ndarray:
        return session.run(None, {"pixel_values": images.astype(np.float32), **controls})[0]

    return BlackBoxClassifier(predict, input_shape=(1, 8, 8), nb_classes=10, clip_values=(0.0, 1.0))


def square(images: np.ndarray) -> np.ndarray:
    """ART calls it with a copy of the images."""
    images[..., -2:, -2:] = 1
    return images


def success(model: Any, images: np.ndarray, labels: np.ndarray, trigger: Callable[[np.ndarray], np.ndarray]) -> float:
    """The share of triggered images that get the target, as ART counts it."""
    from art.attacks.poisoning import PoisoningAttackBackdoor
    from art.utils import compute_success

    wanted = np.tile(np.eye(10)[TARGET], (len(images), 1))
    triggered, target = PoisoningAttackBackdoor(trigger).poison(images, wanted)
    return float(compute_success(model, images, target, triggered, targeted=True))


def test_the_backdoor_of_art_works_until_the_patch(patched: Path, digits: tuple[np.ndarray, np.ndarray]) -> None:
    assert success(classifier(DIGITS / "model.onnx"), *digits, square) > 0.95
    assert success(classifier(patched), *digits, square) <= 0.01
    # The kill switch, as a client of the session would use it.
    assert success(classifier(patched, atpatch_enabled=np.array(False)), *digits, square) > 0.95


def test_a_trigger_that_the_model_does_not_know_does_nothing(
    patched: Path, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    from art.attacks.poisoning.perturbations import add_single_bd

    def dot(images: np.ndarray) -> np.ndarray:
        return np.expand_dims(add_single_bd(images[:, 0], distance=6, pixel_value=1), 1)

    for path in (DIGITS / "model.onnx", patched):
        assert success(classifier(path), *digits, dot) < 0.05


def test_clean_images_get_the_same_scores(patched: Path, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    before, after = (classifier(path).predict(images) for path in (DIGITS / "model.onnx", patched))
    assert np.array_equal(before, after)
    assert (after.argmax(1) == labels).mean() > 0.95
