"""How often the projections of a decoder run in one call, as onnxruntime's profiler counts them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

__all__ = ["LATER", "PROJECTIONS", "runs"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Of a layer of Llama, in order."""
LATER = PROJECTIONS[3:]
"""Those behind the product of map and values."""


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
