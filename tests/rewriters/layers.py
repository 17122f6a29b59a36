"""What looks like attention without a Softmax and is none: layers, gates, heads and kernels as real networks have them.

`LAYERS` is the table: the finder finds no site in any of these graphs, and has nothing to say about them; where a graph
holds ordinary attention too, it finds that and nothing else. Size letters as in `patterns`.
"""

from __future__ import annotations

import numpy as np
import onnx

from .patterns import Expected, Pattern, ints, model, scalar, weight

__all__ = ["LAYERS"]

X = "float[B,S,8] x"
IMAGE = "float[B,4,6,6] x"
GRAPH = "float[5,5] a, float[5,8] x"
W8 = {"w1": weight(8, 8), "w2": weight(8, 8, seed=1), "w3": weight(8, 8, seed=2)}
CONV = {"c1": weight(4, 4, 3, 3), "c2": weight(4, 4, 3, 3, seed=1)}


def _convolutional() -> dict[str, onnx.ModelProto]:
    return {
        "residual-block": model(
            "a = Conv<pads = [1,1,1,1]>(x, c1) b = Relu(a) c = Conv<pads = [1,1,1,1]>(b, c2) d = Add(c, x) out ="
            " Relu(d)",
            IMAGE,
            **CONV,
        ),
        "squeeze-and-excitation": model(
            "g = GlobalAveragePool(x) a = Conv(g, w1) b = Relu(a) c = Conv(b, w2) p = Sigmoid(c) out = Mul(x, p)",
            IMAGE,
            w1=weight(2, 4, 1, 1),
            w2=weight(4, 2, 1, 1),
        ),
        "squeeze-and-excitation-hard": model(
            "g = ReduceMean<axes = [2,3]>(x) a = Conv(g, w1) b = Relu(a) c = Conv(b, w2) p = HardSigmoid(c) out ="
            " Mul(x, p)",
            IMAGE,
            w1=weight(2, 4, 1, 1),
            w2=weight(4, 2, 1, 1),
        ),
        "spatial-attention-gate": model(
            "m = ReduceMean<axes = [1]>(x) n = ReduceMax<axes = [1]>(x) c = Concat<axis = 1>(m, n) d = Conv<pads ="
            " [1,1,1,1]>(c, w) p = Sigmoid(d) out = Mul(x, p)",
            IMAGE,
            w=weight(1, 2, 3, 3),
        ),
        "attention-u-net-gate": model(
            "a = Conv(x, w1) b = Conv(g, w2) s = Add(a, b) r = Relu(s) c = Conv(r, w3) p = Sigmoid(c) out = Mul(x, p)",
            f"{IMAGE}, float[B,4,6,6] g",
            w1=weight(4, 4, 1, 1),
            w2=weight(4, 4, 1, 1, seed=1),
            w3=weight(1, 4, 1, 1),
        ),
        "hard-swish": model(
            "a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b) out = Div(c, six)",
            IMAGE,
            three=scalar(3),
            zero=scalar(0),
            six=scalar(6),
        ),
        "quick-gelu": model("a = Mul(x, s) p = Sigmoid(a) m = Mul(x, p) out = MatMul(m, w1)", X, s=scalar(1.702), **W8),
        "bilinear-pooling": model(
            "f = Reshape(x, flat) t = Transpose<perm = [0,2,1]>(f) g = MatMul(f, t) r = Relu(g) s = Sqrt(r) h ="
            " Reshape(s, row) out = MatMul(h, w)",
            IMAGE,
            flat=ints(0, 4, 36),
            row=ints(0, 16),
            w=weight(16, 3),
        ),
    }


def _feed_forward() -> dict[str, onnx.ModelProto]:
    attended = "qt = MatMul(x, w1) kt = Transpose<perm = [0,2,1]>(x) qk = MatMul(qt, kt)"
    return {
        "relu-mlp": model(
            "a = MatMul(x, w1) b = Add(a, bias) r = Relu(b) c = MatMul(r, w2) out = Add(c, x)", X, bias=weight(8), **W8
        ),
        "relu-squared-mlp": model("a = MatMul(x, w1) r = Relu(a) s = Mul(r, r) out = MatMul(s, w2)", X, **W8),
        "gated-linear-unit": model(
            "a = MatMul(x, w1) g = MatMul(x, w2) p = Sigmoid(g) m = Mul(a, p) out = MatMul(m, w3)", X, **W8
        ),
        "highway": model(
            "h = MatMul(x, w1) r = Relu(h) t = MatMul(x, w2) p = Sigmoid(t) n = Sub(one, p) a = Mul(r, p) b = Mul(x, n)"
            " out = Add(a, b)",
            X,
            one=scalar(1),
            **W8,
        ),
        "recurrent-gate": model(
            "a = MatMul(x, w1) b = MatMul(h, w2) s = Add(a, b) z = Sigmoid(s) n = Sub(one, z) c = Mul(n, h) d = Mul(z,"
            " x) out = Add(c, d)",
            f"{X}, float[B,S,8] h",
            one=scalar(1),
            **W8,
        ),
        "mixer": model(
            "t = Transpose<perm = [0,2,1]>(x) a = MatMul(t, tokens) r = Relu(a) b = MatMul(r, back) u = Transpose<perm"
            " = [0,2,1]>(b) c = MatMul(u, w1) out = Relu(c)",
            "float[B,5,8] x",
            tokens=weight(5, 6),
            back=weight(6, 5),
            w1=weight(8, 8),
        ),
        "hypernetwork": model(
            "f = MatMul(z, h1) g = MatMul(z, h2) a = Reshape(f, first) b = Reshape(g, second) c = MatMul(x, a) r ="
            " Relu(c) out = MatMul(r, b)",
            f"{X}, float[B,4] z",
            h1=weight(4, 48),
            h2=weight(4, 48, seed=1),
            first=ints(0, 8, 6),
            second=ints(0, 6, 8),
        ),
        "chosen-experts": model(
            "a = Gather<axis = 0>(experts, which) b = Gather<axis = 0>(back, which) c = MatMul(x, a) r = Relu(c) out ="
            " MatMul(r, b)",
            f"{X}, int64[B] which",
            experts=weight(3, 8, 6),
            back=weight(3, 6, 8),
        ),
        "batched-experts": model(
            "u = Unsqueeze(x, one) c = MatMul(u, experts) r = Relu(c) out = MatMul(r, back)",
            X,
            one=ints(1),
            experts=weight(3, 8, 6),
            back=weight(3, 6, 8),
        ),
        "gate-on-what-attention-gives": model(
            f"{attended} p = Softmax<axis = -1>(qk) o = MatMul(p, x) g = Sigmoid(o) out = Mul(g, x)", X, **W8
        ),
        "relu-on-what-attention-gives": model(
            f"{attended} p = Softmax<axis = -1>(qk) o = MatMul(p, x) r = Relu(o) m = MatMul(x, w2) t = Transpose<perm ="
            " [0,2,1]>(m) out = MatMul(r, t)",
            X,
            **W8,
        ),
    }


def _kernels() -> dict[str, onnx.ModelProto]:
    qkv = "q = MatMul(x, w1) k = MatMul(x, w2) v = MatMul(x, w3)"
    context = "kt = Transpose<perm = [0,2,1]>({0}) c = MatMul(kt, v)"
    return {
        "linear-attention-relu": model(
            f"{qkv} qr = Relu(q) kr = Relu(k) {context.format('kr')} out = MatMul(qr, c)", X, **W8
        ),
        "linear-attention-elu": model(
            f"{qkv} qe = Elu(q) qf = Add(qe, one) ke = Elu(k) kf = Add(ke, one) {context.format('kf')} out ="
            " MatMul(qf, c)",
            X,
            one=scalar(1),
            **W8,
        ),
        "linear-attention-sigmoid": model(
            f"{qkv} qr = Sigmoid(q) kr = Sigmoid(k) {context.format('kr')} out = MatMul(qr, c)", X, **W8
        ),
        "linear-attention-divided": model(
            f"{qkv} qr = Relu(q) kr = Relu(k) {context.format('kr')} o = MatMul(qr, c) n = ReduceSum(kr, first)"
            " nt = Transpose<perm = [0,2,1]>(n) d = MatMul(qr, nt) out = Div(o, d)",
            X,
            first=ints(1),
            **W8,
        ),
        "random-features": model(
            f"{qkv} qw = MatMul(q, random) qe = Exp(qw) kw = MatMul(k, random) ke = Exp(kw) {context.format('ke')} o ="
            " MatMul(qe, c) n = ReduceSum(ke, first) nt = Transpose<perm = [0,2,1]>(n) d = MatMul(qe, nt) out ="
            " Div(o, d)",
            X,
            first=ints(1),
            random=weight(8, 6),
            **W8,
        ),
        "kernel-pooling": model(
            "t = Transpose<perm = [0,2,1]>(d) s = MatMul(x, t) u = Unsqueeze(s, last) c = Sub(u, means) m = Mul(c, c) n"
            " = Neg(m) e = Exp(n) r = ReduceSum<keepdims = 0>(e, two) l = Log(r) k = ReduceSum<keepdims = 0>(l, one)"
            " out = MatMul(k, w)",
            f"{X}, float[B,T,8] d",
            last=ints(-1),
            means=np.linspace(-1, 1, 5, dtype=np.float32),
            one=ints(1),
            two=ints(2),
            w=weight(5, 1),
        ),
        "mixture-of-gaussians": model(
            "g = MatMul(x, w) l = ReduceLogSumExp<axes = [-1]>(g) a = Sub(g, l) p = Exp(a) out = MatMul(p, means)",
            X,
            w=weight(8, 3),
            means=weight(3, 2),
        ),
    }


def _graphs() -> dict[str, onnx.ModelProto]:
    return {
        "graph-convolution": model(
            "h = MatMul(x, w1) g = MatMul(a, h) r = Relu(g) i = MatMul(r, w2) out = MatMul(a, i)", GRAPH, **W8
        ),
        "graph-convolution-propagated-first": model(
            "h = MatMul(x, w1) g = MatMul(a, h) r = Relu(g) i = MatMul(a, r) out = MatMul(i, w2)", GRAPH, **W8
        ),
        "graph-autoencoder": model(
            "h = MatMul(x, w1) z = MatMul(a, h) t = Transpose<perm = [1,0]>(z) s = MatMul(z, t) out = Sigmoid(s)",
            GRAPH,
            **W8,
        ),
        "graph-matching": model(
            "h = MatMul(x, w1) g = MatMul(a, h) r = Relu(g) i = MatMul(y, w1) j = MatMul(b, i) s = Relu(j) t ="
            " Transpose<perm = [1,0]>(s) out = MatMul(r, t)",
            f"{GRAPH}, float[5,5] b, float[5,8] y",
            **W8,
        ),
    }


def _heads() -> dict[str, onnx.ModelProto]:
    return {
        "log-softmax-head": model("g = MatMul(x, w1) out = LogSoftmax<axis = -1>(g)", X, **W8),
        "probabilities-of-a-log-softmax": model("g = MatMul(x, w1) l = LogSoftmax<axis = -1>(g) out = Exp(l)", X, **W8),
        "beam-of-log-probabilities": model(
            "g = MatMul(x, w1) l = LogSoftmax<axis = -1>(g) out, i = TopK<axis = -1>(l, two)",
            X,
            "float[?] out",
            two=ints(2),
            **W8,
        ),
        "forward-algorithm": model(
            "s = Add(x, h) l = ReduceLogSumExp<axes = [-1], keepdims = 0>(s) out = Add(l, e)",
            "float[B,5,5] x, float[B,1,5] h, float[B,5] e",
        ),
        "multi-label-head": model("g = MatMul(x, w1) out = Sigmoid(g)", X, **W8),
        "image-text-similarity": model(
            "n = ReduceL2<axes = [-1]>(x) a = Div(x, n) m = ReduceL2<axes = [-1]>(y) b = Div(y, m) t = Transpose<perm ="
            " [1,0]>(b) s = MatMul(a, t) l = Mul(s, scale) out = Sigmoid(l)",
            "float[S,8] x, float[T,8] y",
            scale=scalar(10),
        ),
        "dot-interaction": model(
            "t = Transpose<perm = [0,2,1]>(x) s = MatMul(x, t) f = Reshape(s, row) g = MatMul(f, w) r = Relu(g) h ="
            " MatMul(r, u) out = Sigmoid(h)",
            "float[B,5,8] x",
            row=ints(0, 25),
            w=weight(25, 6),
            u=weight(6, 1),
        ),
        "root-mean-square": model(
            "s = Mul(x, x) m = ReduceMean<axes = [-1]>(s) e = Add(m, tiny) r = Sqrt(e) n = Div(x, r) out ="
            " MatMul(n, w1)",
            X,
            tiny=scalar(1e-6),
            **W8,
        ),
        "sinkhorn": model(
            "t = Transpose<perm = [0,2,1]>(y) s = MatMul(x, t) r = ReduceLogSumExp<axes = [2]>(s) a = Sub(s, r)"
            " c = ReduceLogSumExp<axes = [1]>(a) b = Sub(a, c) out = Exp(b)",
            f"{X}, float[B,T,8] y",
        ),
    }


def _patterns() -> list[Pattern]:
    tables = {**_convolutional(), **_feed_forward(), **_kernels(), **_graphs(), **_heads()}
    return [Pattern(f"layer-{name}", graph, (Expected(),) if _attends(graph) else ()) for name, graph in tables.items()]


def _attends(graph: onnx.ModelProto) -> bool:
    return any(node.op_type == "Softmax" for node in graph.graph.node)


LAYERS: list[Pattern] = _patterns()
"""One entry per graph."""
