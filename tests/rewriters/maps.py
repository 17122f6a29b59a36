"""Attention maps that no single Softmax makes, or that enter no plain product: sites, and rejections whose reasons have
to be true.

`MAPS` continues the table of `patterns`, with the same size letters.
"""

from __future__ import annotations

import numpy as np

from .patterns import FOUR, LOW, MASK4, Q4, QK, Expected, Pattern, ints, model, scalar, weight

__all__ = ["MAPS"]

KEYS = "float[B,S,D] q, float[B,T,D] k, float[B,T,D] v"
LAST = ints(-1)


def heads(form: str, **axes: int) -> tuple[Expected, ...]:
    return (Expected(form=form, heads=3, **axes),)


def _exponentials() -> list[Pattern]:
    """Rows 30-32: Softmax by way of logarithms, and exponentials whose sum divides the product."""
    return [
        Pattern(
            "30-log-softmax",
            model(f"{QK} a = Mul(qk, s) l = LogSoftmax<axis = -1>(a) p = Exp(l) out = MatMul(p, v)", Q4, s=scalar(0.3)),
            heads("log-softmax"),
        ),
        Pattern(
            "30-log-softmax-of-an-old-opset",
            model(f"{QK} l = LogSoftmax<axis = 3>(qk) p = Exp(l) out = MatMul(p, v)", Q4, opset=12),
            heads("log-softmax"),
        ),
        Pattern(
            "30-log-softmax-cast",
            model(
                f"{QK} l = LogSoftmax<axis = -1>(qk) c = Cast<to = 1>(l) p = Exp(c) g = Dropout(p) out = MatMul(g, v)",
                Q4,
            ),
            heads("log-softmax"),
        ),
        Pattern(
            "31-logsumexp",
            model(f"{QK} l = ReduceLogSumExp<axes = [-1]>(qk) a = Sub(qk, l) p = Exp(a) out = MatMul(p, v)", Q4),
            heads("logsumexp"),
        ),
        Pattern(
            "31-logsumexp-unsqueezed",
            model(
                f"{QK} r = ReduceLogSumExp<axes = [3], keepdims = 0>(qk) l = Unsqueeze(r, three) a = Sub(qk, l) p ="
                " Exp(a) out = MatMul(p, v)",
                Q4,
                three=ints(3),
            ),
            heads("logsumexp"),
        ),
        Pattern(
            "31-logsumexp-in-three",
            model(
                f"{QK} e = Exp(qk) n = ReduceSum(e, last) l = Log(n) a = Sub(qk, l) p = Exp(a) out = MatMul(p, v)",
                Q4,
                last=LAST,
            ),
            heads("logsumexp"),
        ),
        Pattern(
            "31-logsumexp-shifted",
            model(
                f"{QK} m = ReduceMax<axes = [-1]>(qk) c = Sub(qk, m) e = Exp(c) n = ReduceSum(e, last) g = Log(n) l ="
                " Add(g, m) a = Sub(qk, l) p = Exp(a) out = MatMul(p, v)",
                Q4,
                last=LAST,
            ),
            heads("logsumexp"),
        ),
        Pattern(
            "31-log-softmax-decomposed",
            model(
                f"{QK} m = ReduceMax<axes = [-1]>(qk) c = Sub(qk, m) e = Exp(c) n = ReduceSum(e, last) l = Log(n) a ="
                " Sub(c, l) p = Exp(a) out = MatMul(p, v)",
                Q4,
                last=LAST,
            ),
            heads("logsumexp"),
        ),
        Pattern(
            "32-divided",
            model(f"{QK} e = Exp(qk) n = ReduceSum(e, last) o = MatMul(e, v) out = Div(o, n)", Q4, last=LAST),
            heads("exp+divided"),
        ),
        Pattern(
            "32-divided-shifted-and-masked",
            model(
                f"{QK} b = Add(qk, mask) m = ReduceMax<axes = [-1]>(b) c = Sub(b, m) e = Exp(c) n = ReduceSum(e, last)"
                " g = Add(n, tiny) o = MatMul(e, v) out = Div(o, g)",
                f"{Q4}, {MASK4}",
                last=LAST,
                tiny=scalar(0.5),
            ),
            heads("exp+divided"),
            sums_to_one=False,
        ),
        Pattern(
            "32-divided-by-a-reciprocal",
            model(
                "kt = Transpose<perm = [0,2,1]>(k) qk = MatMul(q, kt) e = Exp(qk) n = ReduceSum(e, last) r ="
                " Reciprocal(n) o = MatMul(e, v) out = Mul(o, r)",
                KEYS,
                last=LAST,
            ),
            (Expected("exp+divided"),),
        ),
        Pattern(
            "32-divided-einsum",
            model(
                'e = Einsum<equation = "bqhd,bkhd->bhqk">(q, k) p = Exp(e) n = ReduceSum<keepdims = 0>(p, last) o ='
                ' Einsum<equation = "bhqk,bkhd->bqhd">(p, v) t = Transpose<perm = [0,2,1]>(n) u = Unsqueeze(t, last)'
                " out = Div(o, u)",
                "float[B,S,3,D] q, float[B,T,3,D] k, float[B,T,3,D] v",
                last=LAST,
            ),
            heads("exp"),
            sums_to_one=False,
        ),
        Pattern(
            "32-divided-einsum-in-order",
            model(
                'e = Einsum<equation = "bhqd,bhkd->bhqk">(q, k) p = Exp(e) n = ReduceSum(p, last)'
                ' o = Einsum<equation = "bhqk,bhkd->bhqd">(p, v) out = Div(o, n)',
                Q4,
                last=LAST,
            ),
            heads("exp+divided"),
        ),
        Pattern(
            "20-decomposed-sum-not-kept",
            model(
                f"{QK} e = Exp(qk) n = ReduceSum<keepdims = 0>(e, last) u = Unsqueeze(n, last) p = Div(e, u) out ="
                " MatMul(p, v)",
                Q4,
                last=LAST,
            ),
            heads("decomposed"),
        ),
    ]


def _number_by_number() -> list[Pattern]:
    """Rows 33-35: Sigmoid, Relu and sparsemax."""
    projected = "qp = MatMul(x, wq) kp = MatMul(x, wk) vp = MatMul(x, wv)"
    weights = {"wq": weight(4, 4), "wk": weight(4, 4, seed=1), "wv": weight(4, 4, seed=2)}
    sorting = (
        "z, i = TopK<axis = -1>(qk, count) n = CumSum(z, last0) rk = Mul(z, ranks) c = Add(rk, one) d = Greater(c, n) f"
        " = Cast<to = 1>(d) m = ReduceSum(f, last) kept = Mul(f, z) t = ReduceSum(kept, last) u = Sub(t, one) tau ="
        " Div(u, m) a = Sub(qk, tau)"
    )
    sizes = {
        "last": LAST,
        "last0": np.int64(-1),
        "count": ints(7),
        "ranks": np.arange(1, 8, dtype=np.float32),
        "one": scalar(1),
    }
    fixed = Q4.replace("T", "7")
    return [
        Pattern(
            "33-sigmoid",
            model(
                f"{QK} a = Mul(qk, s) b = Add(a, bias) p = Sigmoid(b) out = MatMul(p, v)",
                Q4,
                s=scalar(0.5),
                bias=scalar(-2),
            ),
            heads("sigmoid"),
            sums_to_one=False,
        ),
        Pattern(
            "33-sigmoid-projected",
            model(
                f"{projected} kt = Transpose<perm = [0,2,1]>(kp) qk = MatMul(qp, kt) p = Sigmoid(qk) out ="
                " MatMul(p, vp)",
                "float[B,S,4] x",
                **weights,
            ),
            (Expected("sigmoid"),),
            sums_to_one=False,
        ),
        Pattern(
            "33-sigmoid-rows-are-keys",
            model(
                f"{projected} qt = Transpose<perm = [0,2,1]>(qp) kq = MatMul(kp, qt) p = Sigmoid(kq) vt ="
                " Transpose<perm = [0,2,1]>(vp) out = MatMul(vt, p)",
                "float[B,S,4] x",
                **weights,
            ),
            (Expected("sigmoid", query_axis=-1, key_axis=-2, operand=1),),
            sums_to_one=False,
        ),
        Pattern(
            "33-sigmoid-einsum",
            model(
                'e = Einsum<equation = "bqhd,bkhd->bhqk">(q, k) p = Sigmoid(e) out = Einsum<equation ='
                ' "bhqk,bkhd->bqhd">(p, v)',
                "float[B,S,3,D] q, float[B,T,3,D] k, float[B,T,3,D] v",
            ),
            heads("sigmoid"),
            sums_to_one=False,
        ),
        Pattern(
            "33-sigmoid-with-a-cache",
            model(
                f"{projected} ka = Concat<axis = 1>(past_k, kp) va = Concat<axis = 1>(past_v, vp) kt = Transpose<perm ="
                " [0,2,1]>(ka) qk = MatMul(qp, kt) p = Sigmoid(qk) out = MatMul(p, va)",
                "float[B,S,4] x, float[B,P,4] past_k, float[B,P,4] past_v",
                **weights,
            ),
            (Expected("sigmoid"),),
            sums_to_one=False,
        ),
        Pattern("34-relu", model(f"{QK} p = Relu(qk) out = MatMul(p, v)", Q4), heads("relu"), sums_to_one=False),
        Pattern(
            "34-relu-heads-split",
            model(
                f"{projected} qs = Reshape(qp, split) ks = Reshape(kp, split) vs = Reshape(vp, split) qt ="
                " Transpose<perm = [0,2,1,3]>(qs) kt = Transpose<perm = [0,2,3,1]>(ks) vt = Transpose<perm ="
                " [0,2,1,3]>(vs) qk = MatMul(qt, kt) p = Relu(qk) sq = Mul(p, p) d = Div(sq, n) out = MatMul(d, vt)",
                "float[B,S,4] x",
                **weights,
                split=ints(0, 0, 2, 2),
                n=scalar(5),
            ),
            (Expected("relu", heads=2),),
            sums_to_one=False,
        ),
        Pattern(
            "34-relu-normalized",
            model(
                f"{QK} r = Relu(qk) n = ReduceSum(r, last) g = Add(n, tiny) p = Div(r, g) out = MatMul(p, v)",
                Q4,
                last=LAST,
                tiny=scalar(1e-3),
            ),
            heads("relu"),
            sums_to_one=False,
        ),
        Pattern(
            "34-relu-divided",
            model(
                f"{QK} r = Relu(qk) n = ReduceSum(r, last) g = Add(n, tiny) o = MatMul(r, v) out = Div(o, g)",
                Q4,
                last=LAST,
                tiny=scalar(1e-3),
            ),
            heads("relu+divided"),
            sums_to_one=False,
        ),
        Pattern(
            "34-relu-over-a-computed-length",
            model(
                f"{QK} r = Relu(qk) t = Shape<start = 2, end = 3>(v) n = Squeeze(t) f = Cast<to = 1>(n) p = Div(r, f)"
                " out = MatMul(p, v)",
                Q4,
            ),
            heads("relu"),
            sums_to_one=False,
        ),
        Pattern(
            "34-softplus", model(f"{QK} p = Softplus(qk) out = MatMul(p, v)", Q4), heads("softplus"), sums_to_one=False
        ),
        Pattern(
            "34-clip",
            model(f"{QK} p = Clip(qk, zero) out = MatMul(p, v)", Q4, zero=scalar(0)),
            heads("relu"),
            sums_to_one=False,
        ),
        Pattern(
            "35-sparsemax", model(f"{QK} {sorting} p = Relu(a) out = MatMul(p, v)", fixed, **sizes), heads("sparsemax")
        ),
        Pattern(
            "35-sparsemax-by-a-maximum",
            model(
                f"{QK} {sorting} shape = Shape(qk) zeros = ConstantOfShape(shape) p = Max(zeros, a) out = MatMul(p, v)",
                fixed,
                "float[B,3,S,D] out",
                **sizes,
            ),
            heads("sparsemax"),
        ),
    ]


def _scores() -> list[Pattern]:
    """Rows 36, 39, 41: scores that are no matrix product, and columns that are no tokens."""
    sequence = (
        "qp = MatMul(x, wq) kp = MatMul(x, wk) vp = MatMul(x, wv) kt = Transpose<perm = [0,2,1]>(kp) qk = MatMul(qp,"
        " kt) m = Unsqueeze(attention_mask, one) f = Cast<to = 1>(m) i = Sub(unit, f) b = Mul(i, low)"
    )
    numbers = {"wq": weight(4, 4), "wk": weight(4, 4, seed=1), "wv": weight(4, 4, seed=2), "one": ints(1)}
    numbers |= {"unit": scalar(1), "low": LOW, "zero": scalar(0)}
    graph = (
        "h = MatMul(x, w) a1 = MatMul(h, u1) a2 = MatMul(h, u2) at = Transpose<perm = [{perm}]>(a2) e = Add(a1, at)"
        " l = LeakyRelu<alpha = 0.2>(e) c = Where(adjacent, l, low) p = Softmax<axis = -1>(c) out = MatMul(p, h)"
    )
    return [
        Pattern(
            "36-graph-attention",
            model(
                graph.format(perm="0,2,1"),
                "float[B,S,4] x, bool[B,S,S] adjacent",
                w=weight(4, 4),
                u1=weight(4, 1, seed=1),
                u2=weight(4, 1, seed=2),
                low=LOW,
            ),
        ),
        Pattern(
            "36-graph-attention-of-one-graph",
            model(
                graph.format(perm="1,0"),
                "float[S,4] x, bool[S,S] adjacent",
                w=weight(4, 4),
                u1=weight(4, 1, seed=1),
                u2=weight(4, 1, seed=2),
                low=LOW,
            ),
        ),
        Pattern(
            "36-graph-attention-of-pairs",
            model(
                "w1 = MatMul(x, wa) w2 = MatMul(x, wb) r = Unsqueeze(w1, two) c = Unsqueeze(w2, one) e = Add(r, c) l ="
                " LeakyRelu(e) s = MatMul(l, vec) z = Squeeze(s, last) p = Softmax<axis = -1>(z) out = MatMul(p, w2)",
                "float[B,S,4] x",
                wa=weight(4, 6),
                wb=weight(4, 6, seed=1),
                vec=weight(6, 1),
                one=ints(1),
                two=ints(2),
                last=LAST,
            ),
        ),
        Pattern(
            "39-padded-sink",
            model(
                f"{QK} b = Add(qk, mask) c = Pad(b, front, zero) p = Softmax<axis = -1>(c) g = Slice(p, one, big, last)"
                " out = MatMul(g, v)",
                f"{Q4}, {MASK4}",
                front=ints(0, 0, 0, 1, 0, 0, 0, 0),
                zero=scalar(0),
                one=ints(1),
                big=ints(2**31),
                last=LAST,
            ),
            (FOUR,),
            sums_to_one=False,
        ),
        Pattern(
            "39-sink-with-a-value",
            model(
                f"{QK} c = Pad(qk, front, zero) p = Softmax<axis = -1>(c) w = Pad(v, above, zero) out = MatMul(p, w)",
                Q4,
                front=ints(0, 0, 0, 1, 0, 0, 0, 0),
                above=ints(0, 0, 1, 0, 0, 0, 0, 0),
                zero=scalar(0),
            ),
            (FOUR,),
        ),
        Pattern(
            "39-padded-sink-of-one-sequence",
            model(
                f"{sequence} a = Add(qk, b) c = Pad(a, front, zero) p = Softmax<axis = -1>(c) g = Slice(p, one, big,"
                " last) out = MatMul(g, vp)",
                "float[B,S,4] x, int64[B,S] attention_mask",
                front=ints(0, 0, 1, 0, 0, 0),
                big=ints(2**31),
                last=LAST,
                **numbers,
            ),
            sums_to_one=False,
        ),
        Pattern(
            "39-sink-with-a-value-of-one-sequence",
            model(
                f"{sequence} a = Add(qk, b) c = Pad(a, front, zero) p = Softmax<axis = -1>(c) w = Pad(vp, above, zero)"
                " out = MatMul(p, w)",
                "float[B,S,4] x, int64[B,S] attention_mask",
                front=ints(0, 0, 1, 0, 0, 0),
                above=ints(0, 1, 0, 0, 0, 0),
                **numbers,
            ),
        ),
        Pattern(
            "41-scores-by-mul-and-reducesum",
            model(
                "r = Unsqueeze(q, three) c = Unsqueeze(k, two) m = Mul(r, c) s = ReduceSum<keepdims = 0>(m, last) p ="
                " Softmax<axis = -1>(s) out = MatMul(p, v)",
                Q4,
                two=ints(2),
                three=ints(3),
                last=LAST,
            ),
            (FOUR,),
        ),
        Pattern(
            "41-rectified-scores",
            model(f"{QK} r = Relu(qk) p = Softmax<axis = -1>(r) out = MatMul(p, v)", Q4),
            (FOUR,),
        ),
        Pattern(
            "41-distances",
            model(
                "r = Unsqueeze(q, three) c = Unsqueeze(k, two) m = Sub(r, c) w = Mul(m, m) s = ReduceSum<keepdims ="
                " 0>(w, last) n = Neg(s) p = Softmax<axis = -1>(n) out = MatMul(p, v)",
                Q4,
                two=ints(2),
                three=ints(3),
                last=LAST,
            ),
            (FOUR,),
        ),
    ]


def _products() -> list[Pattern]:
    """Rows 37, 38, 40, 42, 43: products that weigh more than one row, several maps, their difference, or element by
    element.
    """
    pair = (
        "kt = Transpose<perm = [0,1,3,2]>(k) lt = Transpose<perm = [0,1,3,2]>(l) qk = MatMul(q, kt) ql = MatMul(q, lt)"
        " p = Softmax<axis = -1>(qk) r = Softmax<axis = -1>(ql) c = Mul(r, lam)"
    )
    single = "kt{0} = Transpose<perm = [0,2,1]>(k{0}) qk{0} = MatMul(q{0}, kt{0}) p{0} = Softmax<axis = -1>(qk{0})"
    return [
        Pattern(
            "37-tied-rows",
            model(
                'e = Einsum<equation = "rinhd,rjnhd->hnij">(q, k) p = Softmax<axis = -1>(e)'
                ' out = Einsum<equation = "hnij,rjnhd->rinhd">(p, v)',
                "float[P,S,B,3,D] q, float[P,T,B,3,D] k, float[P,T,B,3,D] v",
            ),
            (FOUR,),
        ),
        Pattern(
            "37-one-map-for-all-heads-of-values",
            model(
                'e = Einsum<equation = "bqd,bkd->bqk">(q, k) p = Softmax<axis = -1>(e) out = Einsum<equation ='
                ' "bqk,bkhd->bqhd">(p, v)',
                "float[B,S,D] q, float[B,T,D] k, float[B,T,3,D] v",
            ),
        ),
        Pattern(
            "38-stacked-heads",
            model(
                f"{single.format('a')} {single.format('b')} ua = Unsqueeze(pa, one) ub = Unsqueeze(pb, one)"
                " p = Concat<axis = 1>(ua, ub) out = MatMul(p, v)",
                "float[B,S,D] qa, float[B,T,D] ka, float[B,S,D] qb, float[B,T,D] kb, float[B,2,T,D] v",
                one=ints(1),
            ),
            (Expected(heads=2),),
            ("shared-product",),
        ),
        Pattern(
            "38-stacked-query-chunks",
            model(
                f"{QK} x, y = Split<axis = 2, num_outputs = 2>(qk) px = Softmax<axis = -1>(x) py = Softmax<axis ="
                " -1>(y) p = Concat<axis = 2>(px, py) out = MatMul(p, v)",
                Q4.replace("S", "6"),
                opset=18,
            ),
            (FOUR,),
            ("shared-product",),
        ),
        Pattern(
            "42-differential-in-one-product",
            model(f"{pair} d = Sub(p, c) out = MatMul(d, v)", f"{Q4}, float[B,3,T,D] l", lam=scalar(0.3)),
            heads("softmax+signed"),
            ("shared-product",),
            sums_to_one=False,
        ),
        Pattern(
            "42-differential-in-double",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) r = Reshape(p, pairs) a, b = Split<axis = 2>(r) c = Mul(b, lam) d ="
                " Sub(a, c) s = Squeeze(d, two) out = MatMul(s, w)",
                "double[B,6,5,D] q, double[B,6,5,D] k, double[B,3,5,8] w",
                "double[?] out",
                pairs=ints(0, 3, 2, 5, 5),
                lam=np.float64(0.4),
                two=ints(2),
            ),
            heads("softmax+signed"),
            sums_to_one=False,
        ),
        Pattern(
            "42-differential-official",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) r = Reshape(p, pairs) a = Gather<axis = 2>(r, zero) b = Gather<axis ="
                " 2>(r, one) c = Mul(b, lam) d = Sub(a, c) out = MatMul(d, w)",
                "float[B,6,5,D] q, float[B,6,5,D] k, float[B,3,5,8] w",
                pairs=ints(0, 3, 2, 5, 5),
                zero=np.int64(0),
                one=np.int64(1),
                lam=scalar(0.4),
            ),
            heads("softmax+signed"),
            sums_to_one=False,
        ),
        Pattern(
            "42-sigmoid-in-a-difference",
            model(f"{QK} p = Sigmoid(qk) d = Sub(p, half) out = MatMul(d, v)", Q4, half=scalar(0.5)),
            heads("sigmoid+signed"),
            sums_to_one=False,
        ),
        Pattern(
            "42-differential-made-positive",
            model(f"{pair} d = Sub(p, c) r0 = Relu(d) out = MatMul(r0, v)", f"{Q4}, float[B,3,T,D] l", lam=scalar(0.3)),
            (FOUR,),
            ("shared-product",),
            sums_to_one=False,
        ),
        Pattern(
            "43-map-scaled-by-a-number",
            model(f"{QK} p = Softmax<axis = -1>(qk) g = Div(p, n) out = MatMul(g, v)", Q4, n=scalar(5.3)),
            (FOUR,),
            sums_to_one=False,
        ),
        Pattern(
            "43-values-scaled-by-a-number",
            model(f"{QK} p = Softmax<axis = -1>(qk) w = Mul(v, n) out = MatMul(p, w)", Q4, n=scalar(5.3)),
            (FOUR,),
        ),
        Pattern(
            "40-mul-and-reducesum",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) pu = Unsqueeze(p, last) vu = Unsqueeze(v, two) m = Mul(pu, vu)"
                " out = ReduceSum<keepdims = 0>(m, three)",
                Q4,
                last=LAST,
                two=ints(2),
                three=ints(3),
            ),
            heads("softmax+summed"),
        ),
        Pattern(
            "40-mul-and-reducesum-values-first",
            model(
                "kt = Transpose<perm = [0,2,1]>(k) qk = MatMul(q, kt) p = Softmax<axis = -1>(qk) pu = Unsqueeze(p,"
                " last) vu = Unsqueeze(v, one) m = Mul(vu, pu) out = ReduceSum<keepdims = 0>(m, middle)",
                KEYS,
                last=LAST,
                one=ints(1),
                middle=ints(-2),
            ),
            (Expected("softmax+summed", operand=1),),
        ),
    ]


def _rejected() -> list[Pattern]:
    """Maps that are no sites, each with a reason that is true of it."""
    none: tuple[Expected, ...] = ()
    return [
        Pattern(
            "50-differential-in-integers",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) d = Sub(p, mean) p_q, p_s, p_z = DynamicQuantizeLinear(d) v_q, v_s,"
                " v_z = DynamicQuantizeLinear(v) o = MatMulInteger(p_q, v_q, p_z, v_z) f = Cast<to = 1>(o) sc ="
                " Mul(p_s, v_s) out = Mul(f, sc)",
                Q4,
                mean=scalar(0.1),
            ),
            none,
            ("signed-map",),
        ),
        Pattern(
            "50-convolved-map",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) c = Conv<pads = [1,1,1,1]>(p, w) out = MatMul(c, v)",
                Q4,
                w=weight(3, 3, 3, 3),
            ),
            none,
            ("mixed-map",),
        ),
        Pattern(
            "50-normalized-over-heads",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) c = BatchNormalization(p, s, b, m, r) out = MatMul(c, v)",
                Q4,
                s=weight(3),
                b=weight(3),
                m=weight(3),
                r=np.ones(3, np.float32),
            ),
            none,
            ("mixed-map",),
        ),
        Pattern(
            "50-columns-regrouped",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) r = Reshape(p, groups) out = MatMul(r, w)",
                "float[B,3,5,D] q, float[B,3,8,D] k, float[B,3,5,4,D] w",
                groups=ints(0, 3, 5, 2, 4),
            ),
            none,
            ("lost-axis",),
        ),
        Pattern(
            "50-scores-normalized",
            model(
                f"{QK} n = LayerNormalization<axis = -1>(qk, s) p = Softmax<axis = -1>(n) out = MatMul(p, v)",
                Q4.replace("T", "7"),
                s=weight(7),
            ),
            none,
            ("scores-form",),
        ),
        Pattern(
            "50-relu-of-other-tokens",
            model(
                "kp = MatMul(k, wk) kt = Transpose<perm = [0,2,1]>(kp) qk = MatMul(q, kt) p = Relu(qk) h = Tanh(v) vp ="
                " MatMul(h, wv) out = MatMul(p, vp)",
                KEYS.replace("D", "4"),
                wk=weight(4, 4),
                wv=weight(4, 4, seed=1),
            ),
            none,
            ("unproven-tokens",),
        ),
        Pattern(
            "50-mul-and-reducesum-unread",
            model(
                f"{QK} p = Softmax<axis = -1>(qk) pu = Unsqueeze(p, last) m = Mul(pu, w) out = ReduceSum<keepdims ="
                " 0>(m, three)",
                f"{Q4}, float[B,3,1,T,D] w",
                last=LAST,
                three=ints(3),
            ),
            none,
            ("product-form",),
        ),
    ]


MAPS: list[Pattern] = [*_exponentials(), *_number_by_number(), *_scores(), *_products(), *_rejected()]
"""One entry per row; the ids are unique and stable."""
