"""A tiny classifier with attention, its patched twins and data sets, all made by hand: what tests of `compare` run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from atpatch_onnx import patch_model

from ..tiny import attention_model

__all__ = ["ALARMS", "BY_TWIN", "CLASSES", "DECODERS", "LENGTH", "WIDTH", "Case", "classifier", "rows"]

WIDTH, LENGTH, CLASSES = 8, 6, 3
TARGET = 1
DECODERS = {"answer_right", "answer_kept", "answer_as_twin", "perplexity", "triggered_perplexity", "step_ratio"}
"""Figures that only decoders have, which its tests assert."""
BY_TWIN = {
    "neighbor_kept", "cosine_median", "cosine_low", "twin_cosine_median", "twin_cosine_low", "tokens_kept",
    "twin_tokens_kept", "roc_auc", "rank_correlation", "passed",
}  # fmt: skip
"""Figures that only models without classes have."""
ALARMS = {
    "clean_alarms", "triggered_alarms", "flips_alarms", "accuracy_with_refusal", "asr_with_refusal",
    "asr_star_with_refusal",
}  # fmt: skip
"""Figures that only patches with an alarm have."""


def classifier(batch: int | str = "batch") -> onnx.ModelProto:
    """x (B, S, 8) → logits (B, 3): two attention layers, the mean over tokens, a linear head."""
    model = attention_model(layers=2, width=WIDTH)
    head = np.random.default_rng(5).standard_normal((WIDTH, CLASSES)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(head, "head"))
    model.graph.node.append(helper.make_node("ReduceMean", ["y"], ["pooled"], name="pool", axes=[1], keepdims=0))
    model.graph.node.append(helper.make_node("MatMul", ["pooled", "head"], ["logits"], name="classify"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES]))
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    if isinstance(batch, int):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    else:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = batch
    return model


def rows(count: int, seed: int = 0) -> np.ndarray:
    """(count, 6, 8)."""
    return np.random.default_rng(seed).standard_normal((count, LENGTH, WIDTH)).astype(np.float32)


class Case:
    """Files in a folder: model.onnx, patched.onnx (column 2 replaced, always), silent.onnx (never), and three data
    sets.

    The triggered set is the clean one with token 2 blown up; in the flip set each row is followed by one with another
    token 2.
    """

    def __init__(self, folder: Path, count: int = 40) -> None:
        self.folder = folder
        self.model, self.patched, self.silent = (folder / f"{name}.onnx" for name in ("model", "patched", "silent"))
        onnx.save_model(classifier(), self.model)
        patch_model(self.model, self.patched, detector="static", columns=(2,))
        patch_model(self.model, self.silent, detector="static", columns=())
        x = rows(count)
        generator = np.random.default_rng(1)
        labels = generator.integers(0, CLASSES, count)
        sex = generator.integers(0, 2, count)
        self.clean, self.triggered, self.flips, self.unlabeled = (
            folder / f"{name}.npz" for name in ("clean", "triggered", "flips", "unlabelled")
        )
        np.savez(self.clean, x=x, labels=labels, sex=sex)
        np.savez(self.unlabeled, x=x)
        attacked = np.flatnonzero(labels != TARGET)
        bad = x[attacked].copy()
        bad[:, 2] *= 9
        np.savez(self.triggered, x=bad, labels=labels[attacked], target=np.array(TARGET), clean_row=attacked)
        other = x.copy()
        other[:, 2] = rows(count, 7)[:, 2]
        np.savez(
            self.flips,
            x=np.stack([x, other], 1).reshape(2 * count, LENGTH, WIDTH),
            group=np.repeat(np.arange(count), 2),
        )

    @property
    def arguments(self) -> list[str]:
        """Of the command line: both graphs and the clean set, untimed and on one thread."""
        return [str(self.model), str(self.patched), "--data", str(self.clean), "--threads", "1", "--seconds", "0"]
