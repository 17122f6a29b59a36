"""The projection behind a site: its weights by head against torch and numpy, or the reason why it is not known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from rewriters.finding.finder import find_sites
from rewriters.finding.output_projection import MOST_ENTRIES, norms_of, projections
from tests.exports import ATTENTION, EXPORTERS, FAMILIES, KNOWN_FAILURES, build_model, export_model

H, D, E = 4, 8, 16
W = np.random.default_rng(0).normal(size=(H * D, E)).astype(np.float32)
BY_HEAD = W.reshape(H, D, E)
TEXT = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
g (float[B,4,S,8] q, float[B,4,8,S] k, float[B,4,S,8] v) => (float y) {{
  s = MatMul(q, k)
  p = Softmax<axis = -1>(s)
  c = MatMul(p, v)
  {tail}
}}
"""
JOINED = "t = Transpose<perm = [0, 2, 1, 3]>(c) m = Reshape(t, joined) "


def graph(tail: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(TEXT.format(tail=tail))
    weights = {"joined": np.array([0, 0, H * D]), "w": W} | weights
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def found(model: onnx.ModelProto, folder: Path = Path()) -> np.ndarray | str:
    sites, _ = find_sites(model)
    assert len(sites) == 1
    (projection,) = projections(model, sites, folder).values()
    return projection


SCALE = np.linspace(0.01, 0.02, E).astype(np.float32)
INTEGERS = np.clip(np.round(W / SCALE) + 100, 0, 255).astype(np.uint8)
FLOATS = ((INTEGERS.astype(np.float32) - 100) * SCALE).reshape(H, D, E)
QUANTIZED = {"n": INTEGERS, "scale": SCALE, "zero": np.full(E, 100, np.uint8)}
DYNAMIC = "a, sa, za = DynamicQuantizeLinear(m) i = MatMulInteger(a, n, za, zero) f = Cast<to = 1>(i) "
KNOWN = {
    "matmul": (JOINED + "y = MatMul(m, w)", {}, BY_HEAD),
    "cast-and-dropout": (JOINED + "a = Cast<to = 1>(m) b = Dropout(a) y = MatMul(b, w)", {}, BY_HEAD),
    "gemm": (
        JOINED + "r = Reshape(m, rows) y = Gemm<transB = 1, alpha = 2.0>(r, w)",
        {"rows": np.array([-1, H * D]), "w": W.T}, BY_HEAD * 2,
    ),
    "weights-computed-from-constants": (
        JOINED + "x = Transpose<perm = [1, 0]>(u) y = MatMul(m, x)", {"u": W.T}, BY_HEAD,
    ),
    "width-outside": (
        "t = Transpose<perm = [0, 2, 3, 1]>(c) m = Reshape(t, joined) y = MatMul(m, w)", {},
        W.reshape(D, H, E).transpose(1, 0, 2),
    ),
    "fused-matmul": (
        JOINED + "y = com.microsoft.FusedMatMul<transB = 1, alpha = 0.5>(m, w)", {"w": W.T}, BY_HEAD * 0.5,
    ),
    "rows-of-all-samples-first": (
        "t = Transpose<perm = [2, 0, 1, 3]>(c) m = Reshape(t, joined) r = Reshape(m, rows) y = MatMul(r, w)",
        {"rows": np.array([-1, H * D])}, BY_HEAD,
    ),
    "qdq": (
        JOINED + "x = DequantizeLinear<axis = 1>(n, scale, zero)"
        " a = QuantizeLinear(m, one) b = DequantizeLinear(a, one) y = MatMul(b, x)",
        QUANTIZED | {"one": np.float32(1)}, FLOATS,
    ),
    "matmul-integer": (JOINED + DYNAMIC + "c2 = Mul(sa, scale) y = Mul(f, c2)", QUANTIZED, FLOATS),
    "matmul-integer-scaled-twice": (JOINED + DYNAMIC + "c2 = Mul(f, sa) y = Mul(scale, c2)", QUANTIZED, FLOATS),
    "matmul-integer-to-float": (
        JOINED + "a, sa, za = DynamicQuantizeLinear(m)"
        " y = com.microsoft.MatMulIntegerToFloat(a, n, sa, scale, za, zero)", QUANTIZED, FLOATS,
    ),
    "dynamic-quantize-matmul": (
        JOINED + "y = com.microsoft.DynamicQuantizeMatMul(m, n, scale, zero)", QUANTIZED, FLOATS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_weights_by_head(name: str) -> None:
    tail, weights, want = KNOWN[name]
    got = found(graph(tail, **weights))
    assert not isinstance(got, str), got
    np.testing.assert_allclose(got, want, rtol=1e-6)


UNKNOWN = {
    "nothing": ("y = Identity(c)", {}, "nothing reads"),
    "gate": (JOINED + "g = Sigmoid(m) h = Mul(m, g) y = MatMul(h, w)", {}, "several operators"),
    "norm": (JOINED + "h = Mul(m, e) y = MatMul(h, w)", {"e": np.ones(H * D, "f")}, "Mul reads the heads before"),
    "two": (JOINED + "a = MatMul(m, w) b = MatMul(m, w) y = Add(a, b)", {}, "several operators"),
    "each-head-by-itself": ("y = MatMul(c, u)", {"u": W[:D]}, "does not sum over heads and width"),
    "other-axes": (
        JOINED + "r = Reshape(m, wide) y = MatMul(r, u)",
        {"wide": np.array([-1, 2 * H * D]), "u": np.ones((2 * H * D, E), "f")}, "cannot be followed|does not sum",
    ),
    "all-axes": (
        "r = Reshape(c, flat) y = MatMul(r, u)",
        {"flat": np.array([1, -1]), "u": np.ones((2 * H * D, E), "f")}, "and only over these",
    ),
    "not-constant": (
        JOINED + "x = ReduceSum<keepdims = 0>(q, axes) y = MatMul(m, x)", {"axes": np.array([0, 1])}, "MatMul reads",
    ),
    "four-bits": (
        JOINED + "y = com.microsoft.MatMulNBits<K = 32, N = 16, bits = 4, block_size = 16>(m, b, scale)",
        {"b": np.zeros((E, 2, 8), np.uint8), "scale": np.ones(2 * E, "f")}, "packed .MatMulNBits",
    ),
    "scale-computed": (
        JOINED + DYNAMIC + "y = Mul(f, sa)", QUANTIZED, "scale of the weights of MatMulInteger is not constant",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_without_a_known_projection_there_is_a_reason_and_the_norm_is_of_the_value(name: str) -> None:
    tail, weights, reason = UNKNOWN[name]
    model = graph(tail, **weights)
    sites, _ = find_sites(model)
    (written,) = norms_of(model, sites, Path()).values()
    assert written.norms.factor is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(written.reason)


def test_heads_and_rows_that_change_places_without_a_transpose_are_not_followed() -> None:
    tail = "r = Reshape(c, swapped) m = Reshape(r, joined) y = MatMul(m, w)"
    model = parser.parse_model(TEXT.format(tail=tail).replace("S", "6").replace("6oftmax", "Softmax"))
    arrays = {"swapped": np.array([-1, 6, H, D]), "joined": np.array([0, 0, H * D]), "w": W}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    assert "cannot be followed through Reshape" in str(found(model))


def test_a_site_in_a_subgraph_is_not_followed() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (bool on, float[B,4,S,8] q, float[B,4,8,S] k, float[B,4,S,8] v) => (float y) {
          y = If(on)<then_branch = a () => (x) { s = MatMul(q, k) p = Softmax<axis = -1>(s) x = MatMul(p, v) },
                     else_branch = b () => (z) { z = Identity(v) }>
        }"""
    )
    assert "subgraph" in str(found(model))


def test_weights_in_an_external_file(tmp_path: Path) -> None:
    model = graph(KNOWN["matmul"][0])
    path = tmp_path / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    light = onnx.load(path, load_external_data=False)
    np.testing.assert_array_equal(found(light, tmp_path), BY_HEAD)


@pytest.mark.parametrize("operator", ["MultiHeadAttention", "Attention"])
def test_a_fused_operator_has_its_heads_in_its_features(operator: str) -> None:
    heads = "num_heads" if operator == "MultiHeadAttention" else "q_num_heads"
    domain, opset = ("com.microsoft", 17) if operator == "MultiHeadAttention" else ("", 23)
    more = {} if domain else {"kv_num_heads": H}
    nodes = [
        helper.make_node(operator, ["q", "k", "v"], ["c"], domain=domain, **{heads: H}, **more),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", "S", H * D]) for name in "qkv"]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", "S", E])
    made = helper.make_graph(nodes, "g", inputs, [output], [numpy_helper.from_array(W, "w")])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    np.testing.assert_array_equal(found(helper.make_model(made, opset_imports=opsets, ir_version=10)), BY_HEAD)


def test_the_factor_gives_the_norm_of_what_is_written() -> None:
    model = graph(KNOWN["matmul"][0])
    sites, _ = find_sites(model)
    (written,) = norms_of(model, sites, Path()).values()
    assert written.reason == ""
    assert written.kept == 1.0
    v = np.random.default_rng(1).normal(size=(5, H, D))
    want = np.linalg.norm(np.einsum("nhd,hde->nhe", v, BY_HEAD.astype(np.float64)), axis=2)
    np.testing.assert_allclose(
        np.linalg.norm(np.einsum("nhd,hdr->nhr", v, written.norms.factor), axis=2), want, rtol=1e-5
    )


def test_a_factor_that_would_be_large_has_a_lower_rank_and_keeps_the_largest_part() -> None:
    from rewriters.finding.output_projection import _factor

    width = 1040
    weight = np.zeros((1, width, width), np.float32)
    weight[0, np.arange(width), np.arange(width)] = np.arange(1, width + 1)
    factor, kept = _factor(weight)
    rank = MOST_ENTRIES // width
    assert factor.shape == (1, width, rank) and factor.size <= MOST_ENTRIES
    squares = np.arange(1, width + 1, dtype=np.float64) ** 2
    assert kept == pytest.approx(squares[-rank:].sum() / squares.sum())
    assert np.linalg.norm(factor[0, -1]) == pytest.approx(width)
    assert np.linalg.norm(factor[0, 0]) == pytest.approx(0, abs=1e-3)


OUTPUTS = ("attention.output.dense", "c_proj", "out_proj", "o_proj", ".o")
"""How torch modules call their output projection."""


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_real_export_has_the_weights_of_its_torch_module(family: str, exporter: str, attention: str) -> None:
    if (family, exporter, attention) in KNOWN_FAILURES:
        return
    export = export_model(family, exporter, attention)
    model = onnx.load(export.path)
    sites, _ = find_sites(model)
    linear = {
        name: module.weight.detach().numpy() if type(module).__name__ == "Conv1D" else module.weight.detach().numpy().T
        for name, module in build_model(family).named_modules()
        if type(module).__name__ in ("Linear", "Conv1D")
    }
    found_in = []
    for projection in projections(model, sites, export.path.parent).values():
        if isinstance(projection, str):
            assert (family, exporter, attention) == ("gpt2", "torchscript", "sdpa"), projection
            continue
        whole = projection.reshape(-1, projection.shape[2])
        found_in += [name for name, weight in linear.items() if np.array_equal(weight, whole)]
        assert found_in[-1].endswith(OUTPUTS)
    assert len(set(found_in)) == len(found_in)
    assert len(found_in) == (export.expected_sites if attention == "eager" else len(found_in))
