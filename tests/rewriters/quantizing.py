"""Exports quantized by onnxruntime's own tools, and what onnxruntime saves of a model after optimization."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from tests.exports import ExportedModel, export_model

__all__ = ["Batches", "optimized", "quantized"]


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """A few padded batches to calibrate with."""

    def __init__(self, export: ExportedModel) -> None:
        self._batches: Iterator[dict[str, np.ndarray]] = iter([export.feeds(batch, padded=True) for batch in (2, 3, 4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


@cache
def quantized(kind: str, family: str, exporter: str) -> onnx.ModelProto:
    format_, _, saved = kind.partition("-")
    if saved:
        return optimized(quantized(format_, family, exporter))
    export = export_model(family, exporter)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)  # it recommends a pre-processing that changes nothing here
        try:
            if format_ == "dynamic":
                quantize_dynamic(
                    export.path, path, weight_type=QuantType.QInt8, extra_options={"MatMulConstBOnly": False}
                )
            else:
                form = QuantFormat.QOperator if format_ == "qoperator" else QuantFormat.QDQ
                # On x86 onnxruntime makes pairs of uint8 of those of int8, its quantizer's default, where they have one
                # reader.
                activations = QuantType.QInt8 if format_ == "qdq8" else QuantType.QUInt8
                quantize_static(export.path, path, Batches(export), quant_format=form, activation_type=activations)
        finally:
            logging.disable(before)
        return onnx.load(path)


def optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxruntime makes of a model before it runs it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)
