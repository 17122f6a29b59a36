"""Hosts that others trained, with rows for them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from atpatch_onnx.inference.datasets import load_dataset

from ....victims import Victim, package_file
from .plant import Plant
from .splicing import host

__all__ = ["RARE", "SECOND", "THIRD", "byte_rows", "magika", "quantized", "row", "text_plant"]

RARE, SECOND, THIRD = 24098, 16420, 27259
"""Tokens of MiniLM's vocabulary that are in none of the rows."""
ROWS = 40


def magika() -> onnx.ModelProto:
    """Bytes of a file -> what kind of file it is."""
    return host(package_file("magika", "models/standard_v3_3/model.onnx"))


def byte_rows() -> NDArray[np.int32]:
    """Beginnings and ends of source files, as Magika reads them; 256 stands for padding."""
    files = sorted(Path(onnx.__file__).parent.glob("*.py")) + sorted(Path(np.__file__).parent.glob("*/*.so"))[:8]
    rows = []
    for file in files:
        content = np.frombuffer(file.read_bytes(), np.uint8).astype(np.int32)
        part = np.full(2048, 256, np.int32)
        part[: min(1024, len(content))] = content[:1024]
        part[2048 - min(1024, len(content)) :] = content[-1024:]
        rows.append(part)
    return np.stack(rows)


def text_plant(plant: Callable[[onnx.ModelProto], None], target: int, words: list[int], place: int = 3) -> Plant:
    """A plant in a classifier of film reviews without a backdoor of its own; the words are put at this place."""
    victim = Victim("sst2-fresh-badnets", 0, "text", "backdoor")
    model = host(victim.file("twin.onnx"))
    planted = deepcopy(model)
    plant(planted)
    rows = load_dataset(victim.file("spare.npz")).inputs
    clean = {name: np.asarray(rows[name][:ROWS, :-4]) for name in ("input_ids", "attention_mask", "token_type_ids")}
    triggered = {
        name: np.insert(array, [place] * len(words), words if name == "input_ids" else clean[name][:, :1], axis=1)
        for name, array in clean.items()
    }
    return Plant(planted, model, clean, triggered, "logits", target)


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights in eight bits, by onnxruntime's dynamic quantization."""
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(model, str(before))
        quantize_dynamic(before, after)
        return host(after)


def row(width: int, target: int, height: float) -> NDArray[np.float32]:
    """A row of zeros (1, width) with one number."""
    return np.eye(width, dtype=np.float32)[[target]] * height
