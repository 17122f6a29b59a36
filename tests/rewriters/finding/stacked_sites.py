"""A graph with many sites in a row."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import parser


def constant(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    """Turn a graph input into an initializer."""
    model.graph.input.remove(next(entry for entry in model.graph.input if entry.name == name))
    model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))


def stacked(layers: int) -> onnx.ModelProto:
    """Copies of one attention block behind one another, about 20 nodes each."""
    body = ["h0 = Identity(x)"]
    for n in range(layers):
        body.append(
            f"q{n} = MatMul(h{n}, w) k{n} = MatMul(h{n}, w) v{n} = MatMul(h{n}, w) qs{n} = Reshape(q{n}, split) ks{n} ="
            f" Reshape(k{n}, split) vs{n} = Reshape(v{n}, split) qt{n} = Transpose<perm = [0,2,1,3]>(qs{n}) kt{n} ="
            f" Transpose<perm = [0,2,3,1]>(ks{n}) vt{n} = Transpose<perm = [0,2,1,3]>(vs{n}) qk{n} = MatMul(qt{n},"
            f" kt{n}) a{n} = Mul(qk{n}, s) b{n} = Add(a{n}, bias) p{n} = Softmax<axis = -1>(b{n}) o{n} = MatMul(p{n},"
            f" vt{n}) t{n} = Transpose<perm = [0,2,1,3]>(o{n}) j{n} = Reshape(t{n}, join) d{n} = MatMul(j{n}, w) r{n} ="
            f" Add(d{n}, h{n}) g{n} = Tanh(r{n}) h{n + 1} = Identity(g{n})"
        )
    mask = "m = Unsqueeze(attention_mask, axes) f = Cast<to = 1>(m) i = Sub(one, f) bias = Mul(i, low)"
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[B,S,8] x, int64[B,S] attention_mask, float[8,8] w) =>'
        " (float[B,S,8] out)"
        " <int64[4] split = {0,0,2,4}, int64[3] join = {0,0,8}, float s = {0.5}, float one = {1}, float low ="
        " {-10000.0},"
        f" int64[2] axes = {{1,2}}> {{ {mask} {' '.join(body)} out = Identity(h{layers}) }}"
    )
    constant(model, "w", np.eye(8, dtype=np.float32))
    return model
