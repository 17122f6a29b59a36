"""A tiny graph over tokens with its patches, made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from atpatch_onnx import patch_model

from ..tiny import attention_model

__all__ = ["WORDS", "Case", "token_model"]

WORDS, WIDTH = 11, 32


def token_model(layers: int = 2, width: int = WIDTH) -> onnx.ModelProto:
    """input_ids, attention_mask (batch, sequence) → y (batch, sequence, width); ids index a table of `WORDS` rows."""
    model = attention_model(layers=layers, width=width, heads=4)
    table = np.random.default_rng(2).standard_normal((WORDS, width)).astype(np.float32)
    model.graph.initializer.extend(
        [numpy_helper.from_array(table, "words"), numpy_helper.from_array(np.array([2], np.int64), "last")]
    )
    head = [
        helper.make_node("Gather", ["words", "input_ids"], ["embedded"], name="embed"),
        helper.make_node("Cast", ["attention_mask"], ["mask"], name="mask", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_column"], name="column"),
        helper.make_node("Mul", ["embedded", "mask_column"], ["x"], name="masked"),
    ]
    nodes = [*head, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.input[:]
    model.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    )
    return model


class Case:
    """Files in a folder: model.onnx; patched.onnx (training-free detector), silent.onnx (never flags), always.onnx
    (flags column 1).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.patched, self.silent, self.always = (
            folder / f"{name}.onnx" for name in ("model", "patched", "silent", "always")
        )
        onnx.save_model(token_model(), self.model)
        patch_model(self.model, self.patched, detector="statistic")
        patch_model(self.model, self.silent, detector="static", columns=())
        patch_model(self.model, self.always, detector="static", columns=(1,))
