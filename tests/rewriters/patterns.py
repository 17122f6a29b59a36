"""Hand-built graphs, one for each way that exporters write attention, and for what looks like it but is not.

`PATTERNS` is the table. Every model passes the onnx checker and runs on onnxruntime's CPU provider.
Size letters: B samples, H heads, S and T query rows and key columns, D width, W windows, P past.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

__all__ = ["PATTERNS", "Expected", "Pattern"]

SIZES = {"B": 2, "H": 3, "S": 5, "T": 7, "D": 4, "W": 4, "P": 2}
_IR_VERSION = 8


@dataclass(frozen=True)
class Expected:
    """A site, as far as the table pins it down."""

    form: str = "softmax"
    query_axis: int = -2
    key_axis: int = -1
    operand: int = 0
    heads: int | None = None


@dataclass(frozen=True)
class Pattern:
    """One row.

    Attributes:
        id: unique, starts with the row number of the pattern list where it has one.
        model: the graph.
        sites: expected sites in graph order.
        rejected: expected rejection codes in graph order.
        sums_to_one: rows of P sum to 1 (not so with sinks, head masks and masked maps).
    """

    id: str
    model: onnx.ModelProto
    sites: tuple[Expected, ...] = (Expected(),)
    rejected: tuple[str, ...] = ()
    sums_to_one: bool = True
    sizes: dict[str, int] = field(default_factory=lambda: dict(SIZES))

    def feeds(self) -> dict[str, np.ndarray]:
        """Seeded inputs: normal floats, true booleans with some false ones, small integers."""
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        return {value.name: _draw(value, self.sizes, rng) for value in self.model.graph.input}


def _draw(value: onnx.ValueInfoProto, sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    tensor = value.type.tensor_type
    shape = [dim.dim_value or sizes[dim.dim_param] for dim in tensor.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if dtype == np.bool_:
        drawn = np.asarray(rng.random(shape) < 0.7)
        # no fully masked row: its map is NaN or uniform, depending on the graph
        drawn.reshape(-1, shape[-1] if shape else 1)[:, 0] = True
        return drawn
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, 2, shape).astype(dtype)
    return np.asarray(rng.normal(size=shape), dtype)


def model(
    body: str, inputs: str, outputs: str = "float[?] out", *, opset: int = 17, **constants: Any
) -> onnx.ModelProto:
    """A model in onnx's text form; `float[?]` is an output of unknown shape, keyword arguments become initializers."""
    header = f'<ir_version: {_IR_VERSION}, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    text = f"{header} g ({inputs}) => ({outputs.replace('[?]', '')}) {{ {body} }}"
    built = _parsed(text, constants)
    if opset > 20:
        built.ir_version = 11
    return built


def _parsed(text: str, constants: Mapping[str, Any] = MappingProxyType({})) -> onnx.ModelProto:
    """The text's model with node names.

    `float out` in the text is a scalar: such outputs get the shape that onnx infers for them.
    """
    built = parser.parse_model(text)
    built.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    bare = copy.deepcopy(built)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = {value.name: value for value in onnx.shape_inference.infer_shapes(bare, data_prop=True).graph.output}
    for output in built.graph.output:
        if not output.type.tensor_type.shape.dim:
            output.CopyFrom(inferred[output.name])
    for index, node in enumerate(built.graph.node):
        node.name = node.name or f"{node.op_type.lower()}_{index}"
    return built


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 0.3


def scalar(value: float) -> np.ndarray:
    return np.float32(value)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


Q4 = "float[B,3,S,D] q, float[B,3,T,D] k, float[B,3,T,D] v"
MASK4 = "float[B,1,S,T] mask"
BOOL4 = "bool[B,1,S,T] keep"
QK = "kt = Transpose<perm = [0,1,3,2]>(k)  qk = MatMul(q, kt)"
LOW = np.float32(np.finfo(np.float32).min)
FOUR = Expected(heads=3)


def _scores() -> list[Pattern]:
    """Rows 1-7, 9, 11-14: what happens between Q·Kᵀ and Softmax."""
    return [
        Pattern(
            "01-bert-eager",
            model(
                f"{QK} a = Mul(qk, s) b = Add(a, mask) p = Softmax<axis = -1>(b) out = MatMul(p, v)",
                f"{Q4}, {MASK4}",
                s=scalar(0.5),
            ),
            (FOUR,),
        ),
        Pattern(
            "01-bert-old-div-add",
            model(
                f"{QK} a = Div(qk, s) b = Add(a, mask) p = Softmax<axis = -1>(b) out = MatMul(p, v)",
                f"{Q4}, {MASK4}",
                s=scalar(2),
            ),
            (FOUR,),
        ),
        Pattern(
            "01-div-only",
            model(f"{QK} a = Div(qk, s) p = Softmax<axis = -1>(a) out = MatMul(p, v)", Q4, s=scalar(2)),
            (FOUR,),
        ),
        Pattern(
            "01-distilbert-where",
            model(
                "kt = Transpose<perm = [0,1,3,2]>(k) r = Div(q, s) qk = MatMul(r, kt) drop = Not(keep) a = Where(drop,"
                " low, qk) p = Softmax<axis = -1>(a) out = MatMul(p, v)",
                f"{Q4}, {BOOL4}",
                s=scalar(2),
                low=LOW,
            ),
            (FOUR,),
        ),
        Pattern(
            "01-add-of-where",
            model(
                f"{QK} bias = Where(keep, zero, low) a = Add(qk, bias) p = Softmax<axis = -1>(a) out = MatMul(p, v)",
                f"{Q4}, {BOOL4}",
                zero=scalar(0),
                low=LOW,
            ),
            (FOUR,),
        ),
        Pattern(
            "02-scale-before-product",
            model(
                "kt = Transpose<perm = [0,1,3,2]>(k) r = Mul(q, s) kr = Mul(kt, s) qk = MatMul(r, kr) a = Add(qk, mask)"
                " p = Softmax<axis = -1>(a) out = MatMul(p, v)",
                f"{Q4}, {MASK4}",
                s=scalar(0.7),
            ),
            (FOUR,),
        ),
        Pattern(
            "03-sdpa-nan-guard",
            model(
                f"{QK} bias = Where(keep, zero, low) a = Add(qk, bias) p = Softmax<axis = -1>(a) nan = IsNaN(p) g ="
                " Where(nan, zero, p) out = MatMul(g, v)",
                f"{Q4}, {BOOL4}",
                zero=scalar(0),
                low=np.float32(-np.inf),
            ),
            (FOUR,),
        ),
        Pattern(
            "04-gpt2-old",
            model(
                f"{QK} a = Div(qk, s) b = Mul(a, causal) c = Sub(b, low) d = Add(c, mask) p = Softmax<axis = 3>(d) out"
                " = MatMul(p, v)",
                f"{Q4}, {MASK4}, float[S,T] causal, float[S,T] low",
                s=scalar(2),
            ),
            (FOUR,),
        ),
        Pattern(
            "04-gpt2-cast",
            model(
                f"{QK} a = Mul(qk, s) p = Softmax<axis = -1>(a) c = Cast<to = 1>(p) out = MatMul(c, v)",
                Q4,
                s=scalar(0.5),
            ),
            (FOUR,),
        ),
        Pattern(
            "05-llama-repeat-kv",
            model(
                "k5 = Unsqueeze(k, two) k6 = Expand(k5, wide) kr = Reshape(k6, all) v5 = Unsqueeze(v, two) v6 ="
                " Expand(v5, wide) vr = Reshape(v6, all) kt = Transpose<perm = [0,1,3,2]>(kr) qk = MatMul(q, kt) a ="
                " Mul(qk, s) p = Softmax<axis = -1>(a) c = Cast<to = 1>(p) d = Cast<to = 1>(c) out = MatMul(d, vr)",
                "float[B,6,S,D] q, float[B,3,T,D] k, float[B,3,T,D] v",
                two=ints(2),
                wide=ints(1, 1, 2, 1, 1),
                all=ints(0, 6, -1, 4),
                s=scalar(0.5),
            ),
            (Expected(heads=6),),
        ),
        Pattern(
            "06-kv-cache",
            model(
                "ka = Concat<axis = 2>(past_k, k) va = Concat<axis = 2>(past_v, v) kt = Transpose<perm = [0,1,3,2]>(ka)"
                " qk = MatMul(q, kt) p = Softmax<axis = -1>(qk) out = MatMul(p, va)",
                "float[B,3,1,D] q, float[B,3,1,D] k, float[B,3,1,D] v, float[B,3,P,D] past_k, float[B,3,P,D] past_v",
            ),
            (FOUR,),
        ),
        Pattern(
            "07-t5",
            model(
                f"{QK} g = Gather(table, where) t = Transpose<perm = [2,0,1]>(g) u = Unsqueeze(t, zero) bias = Add(u,"
                " mask) a = Add(qk, bias) p = Softmax<axis = -1>(a) out = MatMul(p, v)",
                f"{Q4}, {MASK4}, int64[S,T] where",
                table=weight(2, 3),
                zero=ints(0),
            ),
            (FOUR,),
        ),
        Pattern(
            "09-conformer-both-sides",
            model(
                f"{QK} z = Add(qk, bias) a = Div(z, s) b = Where(keep, a, low) p = Softmax<axis = -1>(b) g ="
                " Where(keep, p, zero) out = MatMul(g, v)",
                f"{Q4}, {BOOL4}, float[B,3,S,T] bias",
                s=scalar(2),
                low=scalar(-1e4),
                zero=scalar(0),
            ),
            (FOUR,),
        ),
        Pattern(
            "11-vit",
            model(f"{QK} a = Mul(qk, s) p = Softmax<axis = -1>(a) out = MatMul(p, v)", Q4, s=scalar(0.5)),
            (FOUR,),
        ),
        Pattern("11-whisper-cross", model(f"{QK} p = Softmax<axis = -1>(qk) out = MatMul(p, v)", Q4), (FOUR,)),
        Pattern(
            "12-gemma-softcap",
            model(
                f"{QK} a = Mul(qk, s) b = Div(a, cap) c = Tanh(b) d = Mul(c, cap) e = Add(d, mask) p = Softmax<axis ="
                " -1>(e) out = MatMul(p, v)",
                f"{Q4}, {MASK4}",
                s=scalar(0.5),
                cap=scalar(30),
            ),
            (FOUR,),
        ),
        Pattern(
            "13-gpt-oss-sinks",
            model(
                f"{QK} a = Mul(qk, s) b = Add(a, mask) c = Concat<axis = -1>(b, sink) m = ReduceMax<axes = [-1],"
                " keepdims = 1>(c) d = Sub(c, m) p = Softmax<axis = -1>(d) g = Slice(p, start, stop, last) out ="
                " MatMul(g, v)",
                f"{Q4}, {MASK4}, float[B,3,S,1] sink",
                s=scalar(0.5),
                start=ints(0),
                stop=ints(-1),
                last=ints(-1),
            ),
            (FOUR,),
            sums_to_one=False,
        ),
        Pattern(
            "14-bloom-alibi",
            model(
                f"{QK} a = Mul(qk, s) m = Reshape(a, merged) b = Add(m, alibi) w = Reshape(b, four) c = Add(w, mask) p"
                " = Softmax<axis = -1>(c) d = Cast<to = 1>(p) e = Cast<to = 1>(d) r = Reshape(e, merged) vm ="
                " Reshape(v, vmerged) o = MatMul(r, vm) out = Identity(o)",
                f"{Q4.replace('S', '5').replace('T', '7')}, float[B,1,5,7] mask, float[6,1,7] alibi",
                s=scalar(0.5),
                merged=ints(-1, 5, 7),
                four=ints(-1, 3, 5, 7),
                vmerged=ints(-1, 7, 4),
            ),
            (FOUR,),
        ),
    ]


def _shapes() -> list[Pattern]:
    """Rows 8, 10, 11, 15, 16, 18, 19: maps of other ranks, orders and axes."""
    return [
        Pattern(
            "08-deberta-merged",
            model(
                "kt = Transpose<perm = [0,2,1]>(k) qk = MatMul(q, kt) a = Add(qk, pos) w = Reshape(a, four) b ="
                " Where(keep, w, low) p = Softmax<axis = -1>(b) r = Reshape(p, three) o = MatMul(r, v) out = Reshape(o,"
                " split)",
                "float[6,5,4] q, float[6,7,4] k, float[6,7,4] v, float[6,5,7] pos, bool[B,1,5,7] keep",
                low=LOW,
                four=ints(-1, 3, 5, 7),
                three=ints(-1, 5, 7),
                split=ints(-1, 3, 5, 4),
            ),
            (FOUR,),
        ),
        Pattern(
            "08-xsoftmax-masked-after",
            model(
                f"{QK} drop = Not(keep) a = Where(drop, low, qk) p = Softmax<axis = -1>(a) g = Where(drop, zero, p) out"
                " = MatMul(g, v)",
                f"{Q4}, {BOOL4}",
                low=LOW,
                zero=scalar(0),
            ),
            (FOUR,),
        ),
        Pattern(
            "10-swin-v2-shifted",
            model(
                "kt = Transpose<perm = [0,1,3,2]>(k) qk = MatMul(q, kt) a = Mul(qk, s) b = Add(a, bias) w = Reshape(b,"
                " windows) m = Unsqueeze(shift, ones) c = Add(w, m) d = Add(c, m) r = Reshape(d, flat) p = Softmax<axis"
                " = -1>(r) out = MatMul(p, v)",
                "float[8,3,5,4] q, float[8,3,5,4] k, float[8,3,5,4] v, float[W,5,5] shift, float[1,3,5,5] bias",
                s=scalar(0.5),
                ones=ints(0, 2),
                windows=ints(-1, 4, 3, 5, 5),
                flat=ints(-1, 3, 5, 5),
            ),
            (FOUR,),
        ),
        Pattern(
            "11-clip-old",
            model(
                "kt = Transpose<perm = [0,2,1]>(k) qk = MatMul(q, kt) w = Reshape(qk, four) a = Add(w, mask) r ="
                " Reshape(a, three) p = Softmax<axis = -1>(r) out = MatMul(p, v)",
                "float[6,5,4] q, float[6,7,4] k, float[6,7,4] v, float[B,1,5,7] mask",
                four=ints(2, 3, 5, 7),
                three=ints(6, 5, 7),
            ),
            (FOUR,),
        ),
        Pattern(
            "15-einsum",
            model(
                'e = Einsum<equation = "bqhd,bkhd->bhqk">(q, k) a = Mul(e, s) p = Softmax<axis = -1>(a)'
                ' out = Einsum<equation = "bhqk,bkhd->bqhd">(p, v)',
                "float[B,S,3,D] q, float[B,T,3,D] k, float[B,T,3,D] v",
                s=scalar(0.5),
            ),
            (FOUR,),
        ),
        Pattern(
            "15-xlnet",
            model(
                'e = Einsum<equation = "ibnd,jbnd->bnij">(q, k) a = Add(e, bias) b = Mul(a, s) c = Sub(b, mask) p ='
                ' Softmax<axis = 3>(c) out = Einsum<equation = "bnij,jbnd->ibnd">(p, v)',
                "float[S,B,3,D] q, float[T,B,3,D] k, float[T,B,3,D] v, float[B,3,S,T] bias, float[1,1,S,T] mask",
                s=scalar(0.5),
            ),
            (FOUR,),
        ),
        Pattern(
            "15-stable-diffusion-einsum",
            model(
                'e = Einsum<equation = "b i d, b j d -> b i j">(q, k) a = Mul(e, s) p = Softmax<axis = -1>(a) c ='
                ' Cast<to = 1>(p) d = Cast<to = 1>(c) out = Einsum<equation = "b i j, b j d -> b i d">(d, v)',
                "float[B,S,D] q, float[B,T,D] k, float[B,T,D] v",
                s=scalar(0.5),
            ),
        ),
        Pattern(
            "15-einsum-ellipsis-operand-1",
            model(
                'e = Einsum<equation = "...id,...jd->...ij">(q, k) p = Softmax<axis = -1>(e) out = Einsum<equation ='
                ' "...jd,...ij">(v, p)',
                Q4,
            ),
            (Expected(operand=1, heads=3),),
        ),
        Pattern(
            "15-einsum-keys-first",
            model(
                'e = Einsum<equation = "bqhd,bkhd->bkqh">(q, k) p = Softmax<axis = 1>(e) out = Einsum<equation ='
                ' "bkqh,bkhd->bhqd">(p, v)',
                "float[B,S,3,D] q, float[B,T,3,D] k, float[B,T,3,D] v",
            ),
            (Expected(query_axis=-2, key_axis=-3, heads=3),),
        ),
        Pattern(
            "15-einsum-multi-query",
            model(
                'e = Einsum<equation = "bhqd,bkd->bhqk">(q, k) p = Softmax<axis = -1>(e) out = Einsum<equation ='
                ' "bhqk,bkd->bqhd">(p, v)',
                "float[B,3,S,D] q, float[B,T,D] k, float[B,T,D] v",
            ),
            (FOUR,),
        ),
        Pattern(
            "15-values-of-lower-rank",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) out = MatMul(p, v)",
                "float[B,3,S,D] q, float[B,3,T,D] k, float[3,T,D] v",
            ),
            (FOUR,),
        ),
        Pattern(
            "16-vae-transposed",
            model(
                "qt = Transpose<perm = [0,2,1]>(q) qk = MatMul(qt, k) a = Mul(qk, s) p = Softmax<axis = 2>(a)"
                " pt = Transpose<perm = [0,2,1]>(p)"
                " out = MatMul(v, pt)",
                "float[B,D,S] q, float[B,D,T] k, float[B,D,T] v",
                s=scalar(0.5),
            ),
            (Expected(query_axis=-1, key_axis=-2, operand=1),),
        ),
        Pattern(
            "18-axis-2-of-3",
            model(
                "kt = Transpose<perm = [0,2,1]>(k) qk = MatMul(q, kt) p = Softmax<axis = 2>(qk) out = MatMul(p, v)",
                "float[B,S,D] q, float[B,T,D] k, float[B,T,D] v",
            ),
        ),
        Pattern(
            "18-axis-3-opset-12",
            model(f"{QK} p = Softmax<axis = 3>(qk) out = MatMul(p, v)", Q4, opset=12),
            (Expected(form="softmax-flat", heads=3),),
        ),
        Pattern(
            "19-flatten-softmax-reshape",
            model(
                f"{QK} a = Add(qk, mask) f = Flatten<axis = 3>(a) p = Softmax<axis = 1>(f) shape = Shape(a) r ="
                " Reshape(p, shape) out = MatMul(r, v)",
                f"{Q4}, {MASK4}",
                "float[B,3,S,D] out",
                opset=11,
            ),
            (Expected(form="softmax-flat", heads=3),),
        ),
        Pattern(
            "19-default-axis-one-row",
            model(
                "kt = Transpose<perm = [0,2,1]>(k) qk = MatMul(q, kt) p = Softmax(qk) out = MatMul(p, v)",
                "float[B,1,D] q, float[B,T,D] k, float[B,T,D] v",
                opset=11,
            ),
            (Expected(form="softmax-flat"),),
        ),
        Pattern(
            "19-transpose-around-softmax",
            model(
                "qt = Transpose<perm = [0,1,3,2]>(q) kq = MatMul(k, qt) t = Transpose<perm = [0,1,3,2]>(kq) p ="
                " Softmax<axis = 3>(t) out = MatMul(p, v)",
                Q4,
                opset=12,
            ),
            (Expected(form="softmax-flat", heads=3),),
        ),
        Pattern(
            "two-dimensional-gemm",
            model(
                "qk = Gemm<transB = 1>(q, k) p = Softmax<axis = -1>(qk) out = Gemm(p, v)",
                "float[S,D] q, float[T,D] k, float[T,D] v",
            ),
        ),
        Pattern(
            "fused-matmul-transposed",
            model(
                "qk = com.microsoft.FusedMatMul<transB = 1, alpha = 0.5>(q, k) p = Softmax<axis = -1>(qk)"
                " out = com.microsoft.FusedMatMul<transA = 0, transB = 1>(p, v)",
                "float[B,3,S,D] q, float[B,3,T,D] k, float[B,3,D,T] v",
                "float[B,3,S,D] out",
            ),
            (FOUR,),
        ),
        Pattern(
            "fused-matmul-scaled",
            model(
                "qk = com.microsoft.FusedMatMul<transB = 1, alpha = 0.5>(q, k) p = Softmax<axis = -1>(qk)"
                " out = com.microsoft.FusedMatMul<alpha = 0.25>(p, v)",
                Q4,
                "float[B,3,S,D] out",
            ),
            (Expected(form="softmax+scaled", heads=3),),
        ),
        Pattern(
            "fused-matmul-trans-batch",
            model(
                "qk = com.microsoft.FusedMatMul<transBatchA = 1, transBatchB = 1, transB = 1>(q, k) p = Softmax<axis ="
                " -1>(qk) out = com.microsoft.FusedMatMul<transBatchB = 1>(p, v)",
                "float[S,B,3,D] q, float[T,B,3,D] k, float[T,B,3,D] v",
                "float[B,3,S,D] out",
            ),
            (FOUR,),
        ),
        Pattern(
            "fused-matmul-map-transposed",
            model(
                "qt = Transpose<perm = [0,1,3,2]>(q) kq = MatMul(k, qt) p = Softmax<axis = 2>(kq)"
                " out = com.microsoft.FusedMatMul<transA = 1>(p, v)",
                Q4,
                "float[B,3,S,D] out",
            ),
            (Expected(query_axis=-1, key_axis=-2, heads=3),),
        ),
        Pattern(
            "single-query-row",
            model(
                "kt = Transpose<perm = [0,2,1]>(k) qk = MatMul(q, kt) p = Softmax<axis = -1>(qk) out = MatMul(p, v)",
                "float[B,1,D] q, float[B,T,D] k, float[B,T,D] v",
            ),
        ),
        Pattern(
            "learned-queries",
            model(
                "kt = Transpose<perm = [0,2,1]>(k) qk = MatMul(latents, kt) p = Softmax<axis = -1>(qk) out ="
                " MatMul(p, v)",
                "float[B,T,4] k, float[B,T,D] v",
                latents=weight(1, 6, 4),
            ),
        ),
    ]


def _forms() -> list[Pattern]:
    """Rows 17, 20-28: what happens to the probabilities, and other ways to compute them."""
    q_scale, q_zero = np.float32(1 / 255), np.uint8(0)
    qdq = "{0}_q = QuantizeLinear({0}, sc, zp) {0}_d = DequantizeLinear({0}_q, sc, zp)"
    half_q4 = Q4.replace("float[", "float16[")
    return [
        Pattern(
            "17-head-mask",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) g = Mul(p, head_mask) out = MatMul(g, v)",
                f"{Q4}, float[1,3,1,1] head_mask",
            ),
            (FOUR,),
            sums_to_one=False,
        ),
        Pattern("17-dropout", model(f"{QK} p = Softmax<axis = -1>(qk) g = Dropout(p) out = MatMul(g, v)", Q4), (FOUR,)),
        Pattern(
            "17-returned-attentions",
            model(f"{QK} p = Softmax<axis = -1>(qk) out = MatMul(p, v)", Q4, "float[B,3,S,T] p, float[?] out"),
            (FOUR,),
        ),
        Pattern(
            "20-decomposed-opset-11",
            model(
                f"{QK} m = ReduceMax<axes = [3], keepdims = 1>(qk) c = Sub(qk, m) e = Exp(c) n = ReduceSum<axes = [3],"
                " keepdims = 1>(e) p = Div(e, n) out = MatMul(p, v)",
                Q4,
                opset=11,
            ),
            (Expected(form="decomposed", heads=3),),
        ),
        Pattern(
            "20-decomposed-fp16-saved",
            model(
                "kt = Transpose<perm = [0,1,3,2]>(k) qk = MatMul(q, kt) m = ReduceMax<axes = [-1]>(qk) c = Sub(qk, m) e"
                " = Exp(c) n = ReduceSum(e, last) p = Div(e, n) out = MatMul(p, v)",
                half_q4,
                "float16[?] out",
                last=ints(-1),
            ),
            (Expected(form="decomposed", heads=3),),
        ),
        Pattern(
            "20-decomposed-unshifted",
            model(
                f"{QK} e = Exp(qk) n = ReduceSum<keepdims = 1>(e, last) p = Div(e, n) out = MatMul(p, v)",
                Q4,
                last=ints(-1),
            ),
            (Expected(form="decomposed", heads=3),),
        ),
        Pattern(
            "20-decomposed-reciprocal",
            model(
                f"{QK} m = ReduceMax<axes = [-1]>(qk) c = Sub(qk, m) e = Exp(c) n = ReduceSum(e, last) g = Add(n, tiny)"
                " r = Reciprocal(g) p = Mul(e, r) out = MatMul(p, v)",
                Q4,
                last=ints(-1),
                tiny=scalar(1e-12),
            ),
            (Expected(form="decomposed", heads=3),),
        ),
        Pattern(
            "21-fp16-converter",
            model(
                "kt = Transpose<perm = [0,1,3,2]>(k) qk = MatMul(q, kt) w = Cast<to = 1>(qk) p = Softmax<axis = -1>(w)"
                " h = Cast<to = 10>(p) nan = IsNaN(h) g = Where(nan, zero, h) out = MatMul(g, v)",
                half_q4,
                "float16[?] out",
                zero=np.float16(0),
            ),
            (FOUR,),
        ),
        Pattern(
            "22-qdq",
            model(
                f"{QK} a = Add(qk, mask) {qdq.format('a')} p = Softmax<axis = -1>(a_d) {qdq.format('p')}"
                f" {qdq.format('v')} out = MatMul(p_d, v_d)",
                f"{Q4}, {MASK4}",
                sc=q_scale,
                zp=q_zero,
            ),
            (Expected(form="softmax+qdq", heads=3),),
        ),
        Pattern(
            "23-qoperator",
            model(
                f"{QK} a_q = QuantizeLinear(qk, sc, zp) p_q = com.microsoft.QLinearSoftmax<axis = -1, opset = 13>(a_q,"
                " sc, zp, sc, zp) v_q = QuantizeLinear(v, sc, zp) o_q = QLinearMatMul(p_q, sc, zp, v_q, sc, zp, sc,"
                " zp) out = DequantizeLinear(o_q, sc, zp)",
                Q4,
                "float[B,3,S,D] out",
                sc=q_scale,
                zp=q_zero,
            ),
            (Expected(form="qlinear-softmax+qlinear", heads=3),),
        ),
        Pattern(
            "23-qoperator-float-product",
            model(
                f"{QK} a_q = QuantizeLinear(qk, sc, zp) p_q = com.microsoft.QLinearSoftmax<axis = -1, opset = 13>(a_q,"
                " sc, zp, sc, zp) p = DequantizeLinear(p_q, sc, zp) out = MatMul(p, v)",
                Q4,
                "float[B,3,S,D] out",
                sc=q_scale,
                zp=q_zero,
            ),
            (Expected(form="qlinear-softmax", heads=3),),
            sums_to_one=False,
        ),
        Pattern(
            "23-qlinear-matmul",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) p_q = QuantizeLinear(p, sc, zp) v_q = QuantizeLinear(v, sc, zp)"
                " o_q = QLinearMatMul(p_q, sc, zp, v_q, sc, zp, sc, zp) out = DequantizeLinear(o_q, sc, zp)",
                Q4,
                sc=q_scale,
                zp=q_zero,
            ),
            (Expected(form="softmax+qlinear", heads=3),),
        ),
        Pattern(
            "23-qlinear-both-products",
            model(
                "kt = Transpose<perm = [0,1,3,2]>(k) q_q = QuantizeLinear(q, qs, qz) k_q = QuantizeLinear(kt, qs, qz)"
                " a_q = QLinearMatMul(q_q, qs, qz, k_q, qs, qz, ss, qz) a = DequantizeLinear(a_q, ss, qz) p ="
                " Softmax<axis = -1>(a) p_q = QuantizeLinear(p, sc, zp) v_q = QuantizeLinear(v, qs, qz) r_q ="
                " Reshape(p_q, three) w_q = Reshape(v_q, values) o_q = QLinearMatMul(r_q, sc, zp, w_q, qs, qz, qs, qz)"
                " out = DequantizeLinear(o_q, qs, qz)",
                Q4.replace("B", "2").replace("S", "5").replace("T", "7").replace("D", "4"),
                sc=q_scale,
                zp=q_zero,
                qs=np.float32(4 / 128),
                qz=np.uint8(131),
                ss=np.float32(12 / 128),
                three=ints(-1, 5, 7),
                values=ints(-1, 7, 4),
            ),
            (Expected(form="softmax+qlinear", heads=3),),
        ),
        Pattern(
            "24-dynamic-quantization",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) p_q, p_s, p_z = DynamicQuantizeLinear(p) v_q, v_s, v_z ="
                " DynamicQuantizeLinear(v) o = MatMulInteger(p_q, v_q, p_z, v_z) f = Cast<to = 1>(o) sc = Mul(p_s,"
                " v_s) out = Mul(f, sc)",
                Q4,
            ),
            (Expected(form="softmax+integer", heads=3),),
        ),
        Pattern(
            "24-dynamic-quantization-values-moved",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) p_q, p_s, p_z = DynamicQuantizeLinear(p) w_q, v_s, v_z ="
                " DynamicQuantizeLinear(w) v_q = Transpose<perm = [0,2,1,3]>(w_q) o = MatMulInteger(p_q, v_q, p_z,"
                " v_z) f = Cast<to = 1>(o) a = Mul(f, p_s) out = Mul(v_s, a)",
                Q4.replace("float[B,3,T,D] v", "float[B,T,3,D] w"),
            ),
            (Expected(form="softmax+integer", heads=3),),
        ),
        Pattern(
            "24-integer-to-float",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) p_q, p_s, p_z = DynamicQuantizeLinear(p) v_q, v_s, v_z ="
                " DynamicQuantizeLinear(v) out = com.microsoft.MatMulIntegerToFloat(p_q, v_q, p_s, v_s, p_z, v_z)",
                Q4,
                "float[B,3,S,D] out",
            ),
            (Expected(form="softmax+integer", heads=3),),
        ),
        Pattern(
            "24-dynamic-quantize-matmul",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) v_q, v_s, v_z = DynamicQuantizeLinear(v)"
                " out = com.microsoft.DynamicQuantizeMatMul(p, v_q, v_s, v_z)",
                Q4,
                "float[B,3,S,D] out",
            ),
            (Expected(form="softmax+integer", heads=3),),
        ),
        Pattern(
            "24-integer-sum-left-unscaled",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) p_q, p_s, p_z = DynamicQuantizeLinear(p) v_q, v_s, v_z ="
                " DynamicQuantizeLinear(v) o = MatMulInteger(p_q, v_q, p_z, v_z) out = Cast<to = 1>(o)",
                Q4,
            ),
            (),
            ("quantized-product",),
        ),
        Pattern(
            "24-integer-scores",
            model(
                "kt = Transpose<perm = [0,1,3,2]>(k) q_q, q_s, q_z = DynamicQuantizeLinear(q) k_q, k_s, k_z ="
                " DynamicQuantizeLinear(kt) o = MatMulInteger(q_q, k_q, q_z, k_z) f = Cast<to = 1>(o) sc = Mul(q_s,"
                " k_s) a = Mul(f, sc) p = Softmax<axis = -1>(a) out = MatMul(p, v)",
                Q4,
            ),
            (FOUR,),
        ),
        Pattern("26-attention-23", model("out = Attention(q, k, v)", Q4, opset=23), (Expected("Attention", heads=3),)),
        Pattern(
            "26-attention-heads-beside",
            model(
                "out = Attention<q_num_heads = 6, kv_num_heads = 3, is_causal = 1>(q, k, v)",
                "float[B,S,24] q, float[B,T,12] k, float[B,T,15] v",
                opset=24,
            ),
            (Expected("Attention", heads=6),),
        ),
        Pattern(
            "26-attention-scores-read",
            model(
                "out, pk, pv, scores = Attention(q, k, v) top = ReduceMax(scores)",
                Q4,
                "float[?] out, float[?] top",
                opset=25,
            ),
            (Expected("Attention", heads=3),),
        ),
        Pattern(
            "26-linear-attention",
            model(
                'out, state = LinearAttention<q_num_heads = 3, kv_num_heads = 3, update_rule = "linear">(q, k, v)',
                "float[B,S,12] q, float[B,S,12] k, float[B,S,12] v",
                opset=27,
            ),
            (),
            ("no-map",),
        ),
        Pattern(
            "27-multi-head-attention",
            model(
                "out = com.microsoft.MultiHeadAttention<num_heads = 3>(q, k, v)",
                "float[B,S,12] q, float[B,T,12] k, float[B,T,12] v",
                "float[B,S,12] out",
            ),
            (Expected("MultiHeadAttention", heads=3),),
        ),
        Pattern(
            "27-attention",
            model(
                "out = com.microsoft.Attention<num_heads = 3>(x, w, b, mask)",
                "float[B,S,8] x, int32[B,S] mask",
                "float[B,S,12] out",
                w=weight(8, 36),
                b=weight(36),
            ),
            (Expected("com.microsoft.Attention", heads=3),),
        ),
        Pattern(
            "28-differential",
            model(
                "kt = Transpose<perm = [0,1,3,2]>(k) lt = Transpose<perm = [0,1,3,2]>(l) qk = MatMul(q, kt) ql ="
                " MatMul(q, lt) p = Softmax<axis = -1>(qk) r = Softmax<axis = -1>(ql) a = MatMul(p, v) b = MatMul(r, v)"
                " c = Mul(b, lam) out = Sub(a, c)",
                f"{Q4}, float[B,3,T,D] l",
                lam=scalar(0.3),
            ),
            (FOUR, FOUR),
        ),
        Pattern(
            "28-talking-heads",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) t = Transpose<perm = [0,2,3,1]>(p) m = MatMul(t, mix) r ="
                " Transpose<perm = [0,3,1,2]>(m) out = MatMul(r, v)",
                Q4,
                mix=weight(3, 3),
            ),
            (),
            ("mixed-map",),
        ),
        Pattern(
            "29-additive",
            model(
                "w = MatMul(k, wk) u = MatMul(q, wq) a = Add(w, u) t = Tanh(a) s = MatMul(t, vec) z = Squeeze(s, last)"
                " p = Softmax<axis = -1>(z) r = Unsqueeze(p, one) out = MatMul(r, k)",
                "float[B,1,4] q, float[B,T,4] k",
                wk=weight(4, 8),
                wq=weight(4, 8, seed=1),
                vec=weight(8, 1),
                last=ints(-1),
                one=ints(1),
            ),
            (Expected(),),
        ),
        Pattern(
            "29-additive-grid",
            model(
                "w = MatMul(x, wk) u = MatMul(x, wq) wr = Unsqueeze(w, one) ur = Unsqueeze(u, two) a = Add(ur, wr) b ="
                " Add(bias, a) t = Tanh(b) t_q, t_s, t_z = DynamicQuantizeLinear(t) o = MatMulInteger(t_q, vec, t_z) f"
                " = Cast<to = 1>(o) sc = Mul(t_s, vec_s) m = Mul(f, sc) s = Squeeze(m, last) p = Softmax<axis = -1>(s)"
                " out = MatMul(p, x)",
                "float[B,S,4] x",
                wk=weight(4, 8),
                wq=weight(4, 8, seed=1),
                bias=weight(8, seed=2),
                vec=np.arange(-4, 4, dtype=np.int8)[:, None],
                vec_s=scalar(0.1),
                last=ints(-1),
                one=ints(1),
                two=ints(2),
            ),
            (Expected(),),
        ),
        Pattern(
            "29-additive-joined",
            model(
                "h = Expand(q, wide) c = Concat<axis = 2>(h, k) w = MatMul(c, wide_weight) a = Add(w, bias) t = Tanh(a)"
                " s = MatMul(t, vec) z = Transpose<perm = [0,2,1]>(s) p = Softmax<axis = -1>(z) out = MatMul(p, k)",
                "float[B,1,4] q, float[B,7,4] k",
                wide=ints(1, 7, 1),
                wide_weight=weight(8, 8),
                bias=weight(8, seed=2),
                vec=weight(8, 1),
            ),
            (Expected(),),
        ),
        Pattern(
            "two-products-of-one-map",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) a = MatMul(p, v) b = MatMul(p, pos) out = Concat<axis = -1>(a, b)",
                f"{Q4}, float[B,3,T,2] pos",
            ),
            (FOUR, FOUR),
        ),
    ]


def _scopes() -> list[Pattern]:
    """Attention outside the main graph."""
    branch = (
        "{0} = Transpose<perm = [0,1,3,2]>(k) {1} = MatMul(q, {0}) {2} = Softmax<axis = -1>({1}) {3} = MatMul({2}, v)"
    )
    then, other = branch.format("ka", "qa", "pa", "oa"), branch.format("kb", "qb", "pb", "ob")
    conditional = model(
        f"out = If(flag) <then_branch = a () => (float[B,3,S,D] oa) {{ {then} }}, else_branch = b () => (float[B,3,S,D]"
        f" ob) {{ {other} }}>",
        f"{Q4}, bool flag",
    )
    crossing = model(
        f"{QK} p = Softmax<axis = -1>(qk)"
        " out = If(flag) <then_branch = a () => (float[B,3,S,D] oa) { oa = MatMul(p, v) },"
        " else_branch = b () => (float[B,3,S,D] ob) { ob = Identity(q) }>",
        f"{Q4}, bool flag",
    )
    loop = model(
        "out = Loop(trips, yes, q) <body = step (int64 i, bool go, float[B,3,S,D] h) => (bool on, float[B,3,S,D] o) {"
        " on = Identity(go) kt = Transpose<perm = [0,1,3,2]>(k) qk = MatMul(h, kt) p = Softmax<axis = -1>(qk) o ="
        " MatMul(p, v) }>",
        Q4,
        "float[B,3,S,D] out",
        trips=np.int64(2),
        yes=np.bool_(True),
    )
    scan = model(
        "out = Scan<num_scan_inputs = 1, body = step (float[3,S,D] row) => (float[3,S,D] o)"
        " { kt = Transpose<perm = [0,2,1]>(k) qk = MatMul(row, kt) p = Softmax<axis = -1>(qk) o = MatMul(p, v) }>(q)",
        "float[B,3,S,D] q, float[3,T,D] k, float[3,T,D] v",
    )
    collected = model(
        "out = Scan<num_scan_inputs = 1, body = step (float[3,S,D] row) => (float[3,S,T] o)"
        " { kt = Transpose<perm = [0,2,1]>(k) qk = MatMul(row, kt) o = Softmax<axis = -1>(qk) }>(q)",
        "float[B,3,S,D] q, float[3,T,D] k",
    )
    return [
        Pattern("scope-map-leaves-scan", collected, (), ("no-product",)),
        Pattern("scope-if-branches", conditional, (FOUR, FOUR)),
        Pattern("scope-map-enters-if", crossing, (FOUR,)),
        Pattern("scope-loop-body", loop, (FOUR,)),
        Pattern("scope-scan-body", scan, (Expected(),)),
        Pattern("scope-function", _function_model(), (FOUR,)),
        Pattern("scope-softmax-in-function", _shared_softmax_model(), (FOUR, FOUR)),
    ]


def _function_model() -> onnx.ModelProto:
    return _parsed(
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[B,3,S,D] q, float[B,3,T,D] k, float[B,3,T,D] v)'
        ' => (float out) { out = local.attend(q, k, v) } <domain: "local", opset_import: ["" : 17]> attend (a, b, c) =>'
        " (o) { bt = Transpose<perm = [0,1,3,2]>(b) ab = MatMul(a, bt) p = Softmax<axis = -1>(ab) o = MatMul(p, c) }"
    )


def _shared_softmax_model() -> onnx.ModelProto:
    """One function around Softmax, called for two maps, as early torch.export graphs have it."""
    return _parsed(
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[B,3,S,D] q, float[B,3,T,D] k, float[B,3,T,D] v)'
        " => (float out) { kt = Transpose<perm = [0,1,3,2]>(k) qk = MatMul(q, kt) p = local.normalize(qk) a = MatMul(p,"
        ' v) ak = MatMul(a, kt) r = local.normalize(ak) out = MatMul(r, v) } <domain: "local", opset_import: ["" : 17]>'
        " normalize (x) => (y) { y = Softmax<axis = -1>(x) }"
    )


def _negatives() -> list[Pattern]:
    """Softmax that weighs no values, or whose scores are no product of queries and keys."""
    none: tuple[Expected, ...] = ()
    return [
        Pattern(
            "not-linear-attention",
            model(
                "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) kn = Softmax<axis = -2>(k) qn = Softmax<axis ="
                " -1>(q) kt = Transpose<perm = [0,2,1]>(kn) context = MatMul(kt, v) out = MatMul(qn, context)",
                "float[B,S,12] x",
                wq=weight(12, 4),
                wk=weight(12, 4, seed=1),
                wv=weight(12, 4, seed=2),
            ),
            none,
            ("constant-scores", "constant-scores"),
        ),
        Pattern(
            "not-linear-attention-conv",
            model(
                "c = Conv(x, w) k = Reshape(c, shape) kn = Softmax<axis = -1>(k) vt = Transpose<perm = [0,2,1]>(k) out"
                " = MatMul(kn, vt)",
                "float[B,3,4,4] x",
                w=weight(6, 3, 1, 1),
                shape=ints(0, 6, -1),
            ),
            none,
            ("constant-scores",),
        ),
        Pattern(
            "not-dfl-head",
            model(
                "r = Reshape(x, boxes) p = Softmax<axis = -1>(r) out = MatMul(p, bins)",
                "float[B,8,64] x",
                boxes=ints(0, 8, 4, 16),
                bins=np.arange(16, dtype=np.float32)[:, None],
            ),
            none,
            ("constant-values",),
        ),
        Pattern(
            "not-dfl-head-behind-product",
            model(f"{QK} p = Softmax<axis = -1>(qk) out = MatMul(p, bins)", Q4.replace("T", "7"), bins=weight(7, 1)),
            none,
            ("constant-values",),
        ),
        Pattern(
            "not-moe-router",
            model(
                "g = Gemm(x, w, b) p = Softmax<axis = -1>(g) top, index = TopK(p, two) n = ReduceSum(top, last) out ="
                " Div(top, n)",
                "float[S,12] x",
                w=weight(12, 4),
                b=weight(4),
                two=ints(2),
                last=ints(-1),
            ),
            none,
            ("no-product",),
        ),
        Pattern(
            "not-moe-router-weighing-experts",
            model(
                "g = MatMul(x, w) p = Softmax<axis = -1>(g) r = Unsqueeze(p, one) e = MatMul(x3, experts) et ="
                " Transpose<perm = [1,0,2]>(e) o = MatMul(r, et) out = Squeeze(o, one)",
                "float[S,12] x, float[1,S,12] x3",
                w=weight(12, 3),
                one=ints(1),
                experts=weight(3, 12, 4),
            ),
            none,
            ("constant-scores",),
        ),
        Pattern(
            "not-pooling",
            model(
                "s = MatMul(x, w) p = Softmax<axis = 1>(s) m = Mul(p, x) out = ReduceSum<keepdims = 0>(m, one)",
                "float[B,S,12] x",
                w=weight(12, 1),
                one=ints(1),
            ),
            none,
            ("no-product",),
        ),
        Pattern(
            "not-statistics-pooling",
            model(
                "a = Conv(x, w) p = Softmax<axis = 2>(a) m = Mul(p, x) out = ReduceSum<keepdims = 0>(m, two)",
                "float[B,6,S] x",
                w=weight(6, 6, 1),
                two=ints(2),
            ),
            none,
            ("no-product",),
        ),
        Pattern(
            "not-pooling-by-a-learned-vector",
            model(
                "w = MatMul(x, weights) a = Add(w, bias) t = Tanh(a) s = MatMul(t, vec) z = Transpose<perm ="
                " [0,2,1]>(s) p = Softmax<axis = -1>(z) out = MatMul(p, x)",
                "float[B,S,12] x",
                weights=weight(12, 8),
                bias=weight(8, seed=1),
                vec=weight(8, 1, seed=2),
            ),
            none,
            ("constant-scores",),
        ),
        Pattern(
            "not-pooling-of-two-directions",
            model(
                "a = Add(x, y) t = Tanh(a) s = MatMul(t, vec) z = Transpose<perm = [0,2,1]>(s) p = Softmax<axis ="
                " -1>(z) out = MatMul(p, a)",
                "float[B,S,8] x, float[B,S,8] y",
                vec=weight(8, 1),
            ),
            none,
            ("constant-scores",),
        ),
        Pattern(
            "not-class-head",
            model("g = Gemm(x, w, b) out = Softmax<axis = -1>(g)", "float[B,12] x", w=weight(12, 5), b=weight(5)),
            none,
            ("output",),
        ),
        Pattern(
            "not-ctc-head",
            model(
                "g = MatMul(x, w) p = Softmax<axis = 2>(g) out = Transpose<perm = [1,0,2]>(p)",
                "float[B,S,12] x",
                w=weight(12, 9),
            ),
            none,
            ("output",),
        ),
        Pattern(
            "not-sampling",
            model(
                "s = Div(x, temperature) p = Softmax<axis = -1>(s) c = CumSum(p, last) keep = Less(c, nucleus) out ="
                " Where(keep, p, zero)",
                "float[B,9] x, float[1] temperature",
                last=np.int64(-1),
                nucleus=scalar(0.9),
                zero=scalar(0),
            ),
            none,
            ("no-product",),
        ),
        Pattern(
            "not-contracted-axis",
            model(f"{QK} p = Softmax<axis = -2>(qk) out = MatMul(p, v)", Q4),
            none,
            ("axis",),
        ),
        Pattern(
            "not-one-axis-opset-11",
            model(f"{QK} p = Softmax<axis = 2>(qk) out = MatMul(p, v)", Q4, opset=11),
            none,
            ("flatten",),
        ),
        Pattern(
            "not-default-axis-opset-11",
            model(f"{QK} p = Softmax(qk) out = MatMul(p, v)", Q4, opset=11),
            none,
            ("flatten",),
        ),
        Pattern(
            "not-values-but-gram",
            model(f"{QK} p = Softmax<axis = -1>(qk) t = Transpose<perm = [0,1,3,2]>(p) out = MatMul(p, t)", Q4),
            none,
            ("own-values",),
        ),
        Pattern(
            "not-a-learned-score-per-row",
            model(
                "kt = Transpose<perm = [0,2,1]>(weights) s = MatMul(x, kt) p = Softmax<axis = -1>(s) out ="
                " MatMul(p, y)",
                "float[B,S,4] x, float[B,6,D] y",
                weights=weight(1, 6, 4),
            ),
            none,
            ("constant-scores",),
        ),
        Pattern(
            "not-from-a-product",
            model("p = Softmax<axis = -1>(x) out = MatMul(p, v)", "float[B,S,T] x, float[B,T,D] v"),
            none,
            ("no-scores",),
        ),
        Pattern(
            "not-read",
            model("p = Softmax<axis = -1>(x) out = Identity(x)", "float[B,S] x"),
            none,
            ("unused",),
        ),
        Pattern(
            "not-yet-gemm-with-bias",
            model(
                "qk = Gemm<transB = 1>(q, k) p = Softmax<axis = -1>(qk) out = Gemm(p, v, bias)",
                "float[S,D] q, float[T,D] k, float[T,4] v",
                bias=weight(4),
            ),
            none,
            ("product-form",),
        ),
    ]


PATTERNS: list[Pattern] = [*_scores(), *_shapes(), *_forms(), *_scopes(), *_negatives()]
"""One entry per row; the ids are unique and stable."""
