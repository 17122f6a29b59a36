"""Calls of small decoders, and how often projections run in one, as onnxruntime's profiler counts them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from ..decoders import HEADS, PAST, WIDTH

__all__ = ["LATER", "PROJECTIONS", "call", "runs"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Of a layer of Llama, in order."""
LATER = PROJECTIONS[3:]
"""Those behind the product of map and values."""


def call(length: int, past: int = 0) -> dict[str, np.ndarray]:
    """Two samples with `length` new tokens, and `past` in the cache."""
    rng = np.random.default_rng(0)
    cache = {name: rng.normal(size=(2, HEADS, past, WIDTH // HEADS)).astype(np.float32) for name in PAST}
    ids = rng.integers(3, 90, (2, length))
    return {"input_ids": ids, "attention_mask": np.ones((2, past + length), np.int64), **cache}


def runs(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], folder: Path) -> dict[str, int]:
    """Projection → how often it runs in one call, in all layers together."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    live = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    live.run(None, dict(feeds))
    events = json.loads(Path(live.end_profiling()).read_text())
    names = [event["name"] for event in events if event["name"].endswith("_kernel_time")]
    return {one: sum(f"/{one}/MatMul" in name for name in names) for one in PROJECTIONS}
