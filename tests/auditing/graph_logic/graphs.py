"""Small graphs in ONNX's text form: a network of four layers on tokens or on pixels, and places to put something in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from atpatch_onnx.auditing.finding import Checked
from atpatch_onnx.auditing.graph_logic import check_graph

__all__ = ["audit", "codes", "text", "tokens", "with_weights"]

VOCABULARY, WIDTH, CLASSES = 2000, 8, 3
_HEAD = '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>\n'
_RNG = np.random.default_rng(0)


def with_weights(source: str, weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """A model in text form, with float32 initializers."""
    model: onnx.ModelProto = parser.parse_model(source)
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    model.graph.initializer.extend(tensors)
    return model


def text(body: str, functions: str = "", outputs: str = "float[B, 3] logits", inputs: str = "") -> onnx.ModelProto:
    """A text model: ids → found → words → four layers → scores. The body makes the logits of these values.

    Lines of the body that begin with "t_" or "read =" come first: tests of `ids`, and the ids that are looked up. A
    body that makes `words` itself comes before the layers.
    """
    words = "" if "words = " in body else "words = Identity (found)\n"
    late = "\n".join(line for line in body.splitlines() if not _is_early(line))
    early = "\n".join(line for line in body.splitlines() if _is_early(line))
    source = f"""{_HEAD}
    net (int64[B, S] ids, int64[B, S] mask{inputs}) => ({outputs}) {{
        {early}
        {"" if "read = " in early else "read = Identity (ids)"}
        found = Gather (table, read)
        {words}
        {late if "words = " in late else ""}
        a = MatMul (words, w1)
        b = Relu (a)
        c = MatMul (b, w2)
        d = Add (words, c)
        e = MatMul (d, w1)
        f = Tanh (e)
        pooled = ReduceMean (f, one)
        flat = Squeeze (pooled, one)
        scores = Gemm (flat, head, bias)
        {late if "words = " not in late else ""}
    }}
    {functions}
    """
    weights = {
        "table": _RNG.normal(size=(VOCABULARY, WIDTH)),
        "w1": _RNG.normal(size=(WIDTH, WIDTH)),
        "w2": _RNG.normal(size=(WIDTH, WIDTH)),
        "head": _RNG.normal(size=(WIDTH, CLASSES)),
        "bias": _RNG.normal(size=CLASSES),
        "row": np.array([[9.0, -9.0, 0.0]]),
        "vector": _RNG.normal(size=(1, 1, WIDTH)),
        "half": np.array(0.5),
        "unit": np.array(1.0),
        "zero": np.array(0.0),
        "hidden_number": np.array(-1e4),
        "word_number": np.array(777.0),
    }
    model = with_weights(source, weights)
    whole = {"word": 777, "padding": 1, "one": [1], "two": [2], "never": -100, "other": 5, "last": [-1]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v, np.int64), n) for n, v in whole.items())
    return model


def _is_early(line: str) -> bool:
    return line.strip().startswith(("t_", "read ="))


tokens = """
    t_same = Equal (ids, word)
    t_number = Cast <to = 1> (t_same)
    t_any = ReduceMax (t_number, one)
    t_flat = Squeeze (t_any, one)
    t_on = Cast <to = 9> (t_any)
"""
"""Whether token 777 is anywhere: t_any (B, 1) float, t_on (B, 1) bool."""


def audit(body: str, **more: str) -> Checked:
    """What the rules say of a text model."""
    return check_graph(text(body, **more), None)


def codes(body: str, **more: str) -> set[str]:
    """The rules that speak, but for the one on the word itself."""
    return {one.code for one in audit(body, **more).findings} - {"AUD115"}
