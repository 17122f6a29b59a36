"""From what the walks found to a site: every field of it, for each way that it can come out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rewriters.finding.finder import find_sites
from rewriters.finding.site_builder import node_name
from rewriters.sites import Layout, Site

from ..patterns import Q4, QK, ints, model, scalar, weight

ATTEND = f"{QK} p = Softmax<axis = -1>(qk) out = MatMul(p, v)"
PAIRS = (
    f"{QK} p = Softmax<axis = -1>(qk) p_q = QuantizeLinear(p, sc, zp) p_d = DequantizeLinear(p_q, sc, zp)"
    " out = MatMul(p_d, v)"
)
SCALE = {"sc": np.float32(0.1), "zp": np.uint8(0)}
INTEGER = (
    f"{QK} p = Softmax<axis = -1>(qk) a, a1, a0 = DynamicQuantizeLinear(p) b, b1, b0 = DynamicQuantizeLinear(v)"
    " m = MatMulInteger(a, b, a0, b0) f = Cast<to = 1>(m) e = Mul(a1, b1) out = Mul(f, e)"
)


def site_of(body: str, inputs: str = Q4, outputs: str = "float[?] out", opset: int = 17, **constants: Any) -> Site:
    (site,) = find_sites(model(body, inputs, outputs, opset=opset, **constants))[0]
    return site


def test_every_field_of_a_plain_site() -> None:
    assert site_of(ATTEND) == Site(
        id="softmax_2", softmax="softmax_2", matmul="matmul_3", form="softmax", where=(), probabilities="p", values="v",
        product="out", query_axis=-2, key_axis=-1, operand=0, heads=3, head_axis=-3, head_dim=None, scope="softmax_2",
        confidence="high", layout=Layout(4), self_attention=False, key_mask=None, chain=("MatMul", "Softmax", "MatMul"),
        softmax_rank=4, key_size=None,
    )  # fmt: skip


def test_every_field_of_a_fused_site() -> None:
    inputs = "float[B,S,8] q, float[B,T,8] k, float[B,T,8] v"
    site = site_of("out = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v)", inputs)
    assert (site.id, site.softmax, site.matmul, site.form) == (*["multiheadattention_0"] * 3, "MultiHeadAttention")
    assert (site.probabilities, site.values, site.product) == ("", "v", "out")
    assert (site.query_axis, site.key_axis, site.operand, site.heads, site.head_axis) == (-2, -1, 0, 2, -3)
    assert (site.head_dim, site.scope, site.confidence, site.where) == (4, "multiheadattention_0", "high", ())
    assert (site.chain, site.ranks, site.dtype) == (("MultiHeadAttention",), (3, 3, 3), TensorProto.FLOAT)
    assert (site.key_mask, site.key_size, site.unmasked) == (None, None, False)


def test_fixed_sizes_are_known() -> None:
    site = site_of(ATTEND, "float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,6] v")
    assert (site.head_dim, site.key_size, site.heads) == (6, 7, 3)
    site = site_of(
        "out = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v)",
        "float[2,5,8] q, float[2,7,8] k, float[2,7,8] v",
    )
    assert site.key_size == 7


FORMS = {
    "between-pairs": (PAIRS, {"form": "softmax+qdq", "probabilities": "p", "quantizer": "p_q", "values": "v"}),
    "pairs-and-then-a-move": (
        PAIRS.replace("out = MatMul(p_d, v)", "i = Identity(p_d) out = MatMul(i, v)"),
        {"form": "softmax", "probabilities": "i", "quantizer": None},
    ),
    "pair-under-a-scaled-product": (
        PAIRS.replace("out = MatMul(p_d, v)", "out = com.microsoft.FusedMatMul<alpha = 0.5>(p_d, v)"),
        {"form": "softmax+scaled", "probabilities": "p_d", "quantizer": None},
    ),
    "scaled": (
        ATTEND.replace("out = MatMul(p, v)", "out = com.microsoft.FusedMatMul<alpha = 0.5>(p, v)"),
        {"form": "softmax+scaled", "probabilities": "p", "quantizer": None},
    ),
    "integer": (
        INTEGER,
        {
            "form": "softmax+integer", "probabilities": "p", "values": "v", "product": "out", "map_scale": None,
            "values_scale": None, "dtype": TensorProto.FLOAT,
        },
    ),
    "qlinear": (
        f"{QK} p = Softmax<axis = -1>(qk) p_q = QuantizeLinear(p, sc, zp) v_c = Cast<to = 2>(v)"
        " o = QLinearMatMul(p_q, sc, zp, v_c, sc, zp, sc, zp) out = DequantizeLinear(o, sc, zp)",
        {
            "form": "softmax+qlinear", "probabilities": "p", "values": "v_c", "map_scale": None, "product": "o",
            "values_scale": ("sc", "zp"), "dtype": TensorProto.UINT8,
        },
    ),
    "qlinear-with-a-signed-result": (
        f"{QK} p = Softmax<axis = -1>(qk) p_q = QuantizeLinear(p, sc, zp) v_c = Cast<to = 2>(v)"
        " o = QLinearMatMul(p_q, sc, zp, v_c, sc, zp, sc, zi) out = DequantizeLinear(o, sc, zi)",
        {"form": "softmax+qlinear", "dtype": TensorProto.INT8},
    ),
    "dynamic": (
        f"{QK} p = Softmax<axis = -1>(qk) v_c = Cast<to = 2>(v)"
        " out = com.microsoft.DynamicQuantizeMatMul(p, v_c, sc)",
        {"form": "softmax+integer", "values_scale": ("sc", ""), "map_scale": None, "dtype": TensorProto.FLOAT},
    ),
    "decomposed": (
        f"{QK} top = ReduceMax<axes = [-1]>(qk) d = Sub(qk, top) e = Exp(d) t = ReduceSum(e, last) p = Div(e, t)"
        " out = MatMul(p, v)",
        {"form": "decomposed", "chain": ("MatMul", "Sub", "Exp", "Div", "MatMul")},
    ),
    "decomposed-behind-a-scale-and-a-difference": (
        f"{QK} m = Mul(qk, half) n = Sub(m, half) top = ReduceMax<axes = [-1]>(n) d = Sub(n, top) e = Exp(d)"
        " t = ReduceSum(e, last) p = Div(e, t) out = MatMul(p, v)",
        {"form": "decomposed", "chain": ("MatMul", "Mul", "Sub", "Exp", "Div", "MatMul")},
    ),
    "difference-before-a-softmax": (
        f"{QK} top = ReduceMax<axes = [-1]>(qk) d = Sub(qk, top) p = Softmax<axis = -1>(d) out = MatMul(p, v)",
        {"form": "softmax", "chain": ("MatMul", "Sub", "Softmax", "MatMul")},
    ),
    "with-a-way": (
        f"{QK} m = Mul(qk, half) p = Softmax<axis = -1>(m) i = Identity(p) out = MatMul(i, v)",
        {"chain": ("MatMul", "Mul", "Softmax", "Identity", "MatMul"), "probabilities": "i"},
    ),
    "turned": (
        "kt = Transpose<perm = [0, 1, 3, 2]>(k) qt = Transpose<perm = [0, 1, 3, 2]>(q) qk = MatMul(k, qt)"
        " p = Softmax<axis = -2>(qk) vt = Transpose<perm = [0, 1, 3, 2]>(v) out = MatMul(vt, p)",
        {
            "query_axis": -1, "key_axis": -2, "head_axis": -3, "operand": 1,
            "layout": Layout(4, (0, 1, 3, 2), (0, 1, 3, 2), (0, 1, 3, 2)),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "fields"), FORMS.values(), ids=FORMS)
def test_forms(body: str, fields: dict[str, Any]) -> None:
    constants = {**SCALE, "zi": np.int8(0), "last": ints(-1), "half": scalar(0.5)}
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    site = site_of(body, **{name: array for name, array in constants.items() if name in words})
    assert {name: getattr(site, name) for name in fields} == fields


def test_a_pair_whose_first_half_another_value_enters_is_no_pair() -> None:
    body = PAIRS.replace("p_d = DequantizeLinear(p_q", "v_q = QuantizeLinear(v, sc, zp) p_d = DequantizeLinear(p_q")
    assert site_of(body, **SCALE).form == "softmax+qdq"
    assert site_of(body, **SCALE | {"zp": np.int8(0)}).quantizer_dtype == TensorProto.INT8
    assert site_of(body, **SCALE).quantizer_dtype == TensorProto.UINT8


HEADS = {
    "of-the-map": ("float[B,3,S,4] q, float[B,3,T,4] k, float[B,3,T,4] v", ATTEND, 3),
    "of-the-values": ("float[B,H,S,4] q, float[B,H,T,4] k, float[B,3,T,4] v", ATTEND, 3),
    "of-values-under-one-map": ("float[B,1,S,4] q, float[B,1,T,4] k, float[B,3,T,4] v", ATTEND, 3),
    "unknown": ("float[B,H,S,4] q, float[B,H,T,4] k, float[B,H,T,4] v", ATTEND, None),
    "of-one": ("float[B,1,S,4] q, float[B,1,T,4] k, float[B,1,T,4] v", ATTEND, 1),
}  # fmt: skip


@pytest.mark.parametrize(("inputs", "body", "heads"), HEADS.values(), ids=HEADS)
def test_heads(inputs: str, body: str, heads: int | None) -> None:
    assert site_of(body, inputs).heads == heads


def test_heads_of_a_merged_map_have_no_axis() -> None:
    body = (
        "a = Reshape(q, m) b = Reshape(k, m) kt = Transpose<perm = [0, 2, 1]>(b) s = MatMul(a, kt)"
        " p = Softmax<axis = -1>(s) c = Reshape(v, m) o = MatMul(p, c) out = Reshape(o, w)"
    )
    site = site_of(
        body, "float[2,3,5,4] q, float[2,3,5,4] k, float[2,3,5,4] v", m=ints(6, 5, 4), w=ints(2, 3, 5, 4)
    )  # fmt: skip
    assert (site.heads, site.head_axis, site.layout.merged_heads) == (3, None, 3)


def test_without_a_head_axis_there_are_no_heads() -> None:
    body = "kt = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, kt) p = Softmax<axis = -1>(s) out = MatMul(p, v)"
    site = site_of(body, "float[B,S,4] q, float[B,T,4] k, float[B,T,4] v")
    assert (site.heads, site.head_axis, site.head_dim) == (None, None, 4)


TYPES = {
    "float": (ATTEND, Q4, TensorProto.FLOAT),
    "half": (ATTEND, Q4.replace("float[", "float16["), TensorProto.FLOAT16),
    "double": (ATTEND, Q4.replace("float[", "double["), TensorProto.DOUBLE),
    "cast-before-the-product": (
        f"{QK} c = Cast<to = 1>(qk) p = Softmax<axis = -1>(c) d = Cast<to = 10>(p) out = MatMul(d, v)",
        Q4.replace("float[", "float16["), TensorProto.FLOAT16,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "inputs", "dtype"), TYPES.values(), ids=TYPES)
def test_element_type_is_that_of_the_map_at_the_product(body: str, inputs: str, dtype: int) -> None:
    outputs = {TensorProto.FLOAT: "float", TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "double"}[dtype]
    assert site_of(body, inputs, f"{outputs}[?] out").dtype == dtype


MASKED = f"c = Cast<to = 1>(mask) n = Sub(one, c) u = Unsqueeze(n, middle) b = Mul(u, low) {QK} m = Add(qk, b)"
MASK = {"one": scalar(1), "middle": ints(1, 2), "low": scalar(-1e4)}


def test_the_mask_of_columns_is_traced() -> None:
    body = f"{MASKED} p = Softmax<axis = -1>(m) out = MatMul(p, v)"
    assert site_of(body, f"{Q4}, int64[B,T] mask", **MASK).key_mask == "mask"


@pytest.mark.parametrize(("cast", "mask"), [("", "mask"), ("c = Cast<to = 6>(mask)", "c")], ids=["itself", "cast"])
def test_the_mask_of_a_fused_operator_is_an_input_casts_aside(cast: str, mask: str) -> None:
    kind = "int64" if cast else "int32"
    inputs = f"float[B,S,8] q, float[B,T,8] k, float[B,T,8] v, {kind}[B,T] mask"
    body = f'{cast} out = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v, "", {mask})'
    assert site_of(body, inputs).key_mask == "mask"
    computed = f'{cast} n = Neg({mask}) out = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v, "", n)'
    assert site_of(computed, inputs).key_mask is None


def test_a_loop_may_run_over_samples_so_no_mask_is_taken_from_outside() -> None:
    outside, inside = MASKED.replace(QK, "").split("m = ")[0], f"{QK} m = Add(qk, b) p = Softmax<axis = -1>(m)"
    inner = f"{inside} {{0}}o = MatMul(p, v)"
    inputs = f"{Q4}, int64[B,T] mask, bool yes"
    branch = "{0}_branch = {0}g () => (float[B,3,S,4] {0}o) {{ {1} }}"
    branches = f"{branch.format('then', inner.format('then'))}, {branch.format('else', 'elseo = Identity(q)')}"
    body = f"{outside} out = If<{branches}>(yes)"
    assert site_of(body, inputs, **MASK).key_mask == "mask"
    head = "b (int64 i, bool go, float[B,3,S,4] s) => (bool go2, float[B,3,S,4] lo)"
    loop = f"{head} {{ go2 = Identity(go) {inner.format('l')} }}"
    assert site_of(f'{outside} out = Loop<body = {loop}>("", yes, q)', inputs, **MASK).key_mask is None


def test_scopes_and_ids() -> None:
    body = ATTEND.replace("out =", "o =") + " q2 = MatMul(o, kt) r = Softmax<axis = -1>(q2) out = MatMul(r, v)"
    made = model(body, Q4)
    for node in made.graph.node:
        node.name = ""
    first, second = find_sites(made)[0]
    assert (first.id, first.softmax, first.matmul) == ("softmax_1", "p", "o")
    assert (second.id, second.scope) == ("softmax_2", "softmax_2")
    for node in made.graph.node:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'layer.0', 'n']")
    first, second = find_sites(made)[0]
    assert (first.id, second.id) == ("layer.0", "layer.0.2") and second.scope == "layer.0"


def test_names_of_nodes() -> None:
    assert node_name(helper.make_node("Neg", ["a"], ["b"], name="n")) == "n"
    assert node_name(helper.make_node("Split", ["a"], ["", "b"])) == "b"
    assert node_name(helper.make_node("Neg", ["a"], [""])) == "Neg"


def test_learned_queries_make_a_site_less_sure() -> None:
    body = "kt = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(w, kt) p = Softmax<axis = -1>(s) out = MatMul(p, v)"
    assert site_of(body, w=weight(1, 3, 5, 4)).confidence == "medium"
    assert site_of(ATTEND).confidence == "high"


def test_a_scope_without_a_name_counts_fused_sites_too() -> None:
    body = (
        "a = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v)"
        " out = com.microsoft.MultiHeadAttention<num_heads = 2>(a, k, v)"
    )
    made = model(body, "float[B,S,8] q, float[B,T,8] k, float[B,T,8] v")
    made.graph.node[0].name = "/"
    first, second = find_sites(made)[0]
    assert first.scope == "softmax_1" and second.scope == "multiheadattention_1"
    assert isinstance(made, onnx.ModelProto)
