"""Small hosts that are trained or written here in a second: digits of 8 x 8 pixels, a table, words."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["WORDS", "bag_of_words", "digits", "digits_rows", "exported", "table", "table_rows"]

_WORDS = (
    "the a film is was good bad great dull fun boring sad moving sharp weak plot actor scene "
    "slow bright warm cold funny flat rich thin strong clever stupid lovely awful fine poor fresh stale brave"
)
WORDS = tuple(_WORDS.split())


def digits() -> onnx.ModelProto:
    """A convolutional network for scikit-learn's digits."""
    rows, labels = _digits()
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return _trained(tuple(layers), 256, 10, rows, labels)


def digits_rows(count: int) -> NDArray[np.float32]:
    """Pictures (count, 1, 8, 8), from 0 to 1."""
    return _digits()[0][:count]


def table() -> onnx.ModelProto:
    """A network for scikit-learn's table of breast cancers."""
    rows, labels = _cells()
    return _trained((), rows.shape[1], 2, rows, labels)


def table_rows(count: int) -> NDArray[np.float32]:
    """Standardized cells (count, 30)."""
    return _cells()[0][:count]


def bag_of_words() -> onnx.ModelProto:
    """Strings (N, words) -> scores of two classes, the sum of the words' weights."""
    keys = ", ".join(f'"{word}"' for word in WORDS)
    values = ", ".join(str(index + 1) for index in range(len(WORDS)))
    weights = np.random.default_rng(3).normal(0, 1.5, (len(WORDS) + 1, 2)).astype(np.float32)
    weights[0] = 0
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]>\n'
        "bag (string[N, W] words) => (float[N, 2] scores) {\n"
        f"numbers = ai.onnx.ml.LabelEncoder<keys_strings = [{keys}], values_int64s = [{values}], default_int64 = 0>"
        "(words)\n"
        "rows = Gather(weights, numbers)\n"
        "one = Constant<value_ints = [1]>()\n"
        "scores = ReduceSum<keepdims = 0>(rows, one)\n}"
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "weights"))
    return model


def _trained(
    front: tuple[nn.Module, ...], width: int, classes: int, rows: NDArray[np.float32], labels: NDArray[np.int64]
) -> onnx.ModelProto:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in front:
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
        model = nn.Sequential(*front, nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, classes))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        inputs, targets = torch.from_numpy(rows), torch.from_numpy(labels)
        for _ in range(60):
            optimizer.zero_grad()
            loss: Any = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
    return exported(model.eval(), (inputs[:2],), ["x"], ["logits"], {"x": {0: "N"}})


def exported(
    model: nn.Module, example: tuple[Any, ...], inputs: list[str], outputs: list[str], axes: Any
) -> onnx.ModelProto:
    """Torch's export by tracing."""
    file: Any = BytesIO()
    torch.onnx.export(
        model,
        example,
        file,
        input_names=inputs,
        output_names=outputs,
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    found: onnx.ModelProto = onnx.load_from_string(file.getvalue())
    return found


@cache
def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images[:, None] / 16).astype(np.float32), data.target.astype(np.int64)


@cache
def _cells() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    return ((data.data - data.data.mean(0)) / data.data.std(0)).astype(np.float32), data.target.astype(np.int64)
