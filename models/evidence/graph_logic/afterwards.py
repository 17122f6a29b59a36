"""What people do to a graph before they serve it; a plant has to live through it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

__all__ = ["fused", "int8", "optimized", "qdq"]


def optimized(source: Path, target: Path) -> None:
    """As onnxruntime saves it after its own optimization."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def fused(source: Path, target: Path) -> None:
    """By onnxruntime's optimizer for transformers."""
    from onnxruntime.transformers.optimizer import optimize_model

    made = optimize_model(str(source), "bert", num_heads=4, hidden_size=32, use_gpu=False, opt_level=0)
    made.save_model_to_file(str(target))


def int8(source: Path, target: Path) -> None:
    """Weights of layers as bytes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": 1})


def qdq(source: Path, target: Path) -> None:
    """Layers between QuantizeLinear and DequantizeLinear."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    graph = onnx.load(source).graph
    rng = np.random.default_rng(3)

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[dict[str, Any]] = iter([self._draw() for _ in range(3)])

        @staticmethod
        def _draw() -> dict[str, Any]:
            feeds: dict[str, Any] = {}
            for value in graph.input:
                tensor = value.type.tensor_type
                shape = [dim.dim_value or (4 if axis == 0 else 9) for axis, dim in enumerate(tensor.shape.dim)]
                whole = tensor.elem_type == onnx.TensorProto.INT64
                feeds[value.name] = (
                    np.ones(shape, np.int64)
                    if "mask" in value.name
                    else rng.integers(0, 9, shape)
                    if whole
                    else rng.random(shape).astype(np.float32)
                )
            return feeds

        def get_next(self) -> dict[str, Any] | None:
            return next(self._batches, None)

    quantize_static(source, target, Rows(), op_types_to_quantize=["MatMul", "Gemm"])
