"""A model, what `patch` makes of it, and the same with its weights outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx.patching.apply import patch_model

from ..tiny import attention_model, wire


@pytest.fixture
def arms(tmp_path: Path) -> tuple[Path, Path]:
    """Original and patched, with runtime controls and telemetry."""
    original = tmp_path / "models" / "model.onnx"
    original.parent.mkdir()
    onnx.save_model(attention_model(layers=2), original)
    return original, Path(patch_model(original, detector="statistic", telemetry=True).output)


@pytest.fixture
def large_arms(tmp_path: Path) -> tuple[Path, Path]:
    """The same with external data in a sub-folder."""
    folder = tmp_path / "large"
    (folder / "data").mkdir(parents=True)
    random = np.random.default_rng(0)
    weights = []
    with (folder / "data" / "weights.bin").open("wb") as file:
        for name in ("q", "k", "v", "o"):
            tensor = onnx.TensorProto(name=f"layers.0.{name}", data_type=onnx.TensorProto.FLOAT, dims=[8, 8])
            tensor.data_location = onnx.TensorProto.EXTERNAL
            payload = random.standard_normal((8, 8)).astype(np.float32).tobytes()
            for key, value in (("location", "data/weights.bin"), ("offset", file.tell()), ("length", len(payload))):
                tensor.external_data.add(key=key, value=str(value))
            file.write(payload)
            weights.append(tensor)
    original = folder / "big.onnx"
    original.write_bytes(wire(1, 8, 2, 17, weights).SerializeToString())
    return original, Path(patch_model(original, detector="statistic").output)
