"""The options of a session change what a second pass costs, and no bit of an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import atpatch_onnx
from atpatch_onnx.demo.run import FOLDER
from models.bench.memory import prepared


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model with a second pass."""
    path = tmp_path_factory.mktemp("two") / "patched.onnx"
    atpatch_onnx.patch(FOLDER / "model.onnx", path, hotfix=FOLDER / "model.hotfix", passes="two")
    return path


def answers(session: onnxruntime.InferenceSession, **controls: np.ndarray) -> np.ndarray:
    with np.load(FOLDER / "clean.npz") as clean, np.load(FOLDER / "triggered.npz") as triggered:
        pixels = np.concatenate([data["pixel_values"][:8] for data in (clean, triggered)])
    return session.run(None, {"pixel_values": pixels, **controls})[0]


def test_a_session_has_no_memory_patterns(patched: Path) -> None:
    session = atpatch_onnx.session(patched)
    assert not session.get_session_options().enable_mem_pattern
    stock = onnxruntime.InferenceSession(patched)
    assert stock.get_session_options().enable_mem_pattern, "what onnxruntime does by itself"
    np.testing.assert_array_equal(answers(session), answers(stock))


def test_a_prepared_graph_answers_the_same_and_keeps_its_controls(patched: Path, tmp_path: Path) -> None:
    ready = prepared(patched, tmp_path / "ready")
    assert (ready.parent / "model.bin").stat().st_size > 1024
    stock, session = onnxruntime.InferenceSession(patched), onnxruntime.InferenceSession(ready)
    np.testing.assert_array_equal(answers(session), answers(stock))
    off = {"atpatch_enabled": np.array(False)}
    original = answers(onnxruntime.InferenceSession(FOLDER / "model.onnx"))
    np.testing.assert_array_equal(answers(session, **off), original)
    assert (answers(session) != original).any()
    meta = session.get_modelmeta().custom_metadata_map
    assert meta == stock.get_modelmeta().custom_metadata_map
