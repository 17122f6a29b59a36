"""Every kind of detector gives scores, and those that are probabilities logits too."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, parser

from rewriters.emit import Emitter
from rewriters.errors import AtpatchError
from rewriters.plan import Cnn, Conv, Dense, Detector, OneClass, OnnxGraph, Profile, Static, Statistic
from rewriters.subgraphs.detectors import (
    cnn,
    evidence,
    gives_logits,
    oneclass,
    onnx_graph,
    profile,
    scores,
    static,
    statistic,
)

from ..emitted import ran
from .maps import A, context

HEADER = '<ir_version: 8, opset_import: ["" : {}]>'
GRAPH = "d (float[B,H,Q,K] map) => (float[B,K] score) {{ {} }}"
BODY = "h = ReduceMean<axes = [1, 2], keepdims = 0>(map) score = Mul(h, scale)"


def user(body: str = BODY, opset: int = 17, graph: str = GRAPH, rest: str = "", header: str = HEADER) -> OnnxGraph:
    model = parser.parse_model(f"{header.format(opset)} {graph.format(body)} {rest}")
    if "scale" in body:
        model.graph.initializer.append(helper.make_tensor("scale", 1, [], [3.0]))
    return OnnxGraph(model.SerializeToString())


ONES = np.ones(6, np.float32)
KINDS: dict[str, tuple[Detector, object, bool]] = {
    "static": (Static((1,)), static.scores, False),
    "statistic": (Statistic(()), statistic.scores, False),
    "profile": (Profile((Dense(ONES[:, None], ONES[:1]),), ONES, ONES), profile.scores, True),
    "oneclass": (OneClass(ONES, ONES[:, None], True, 0.1), oneclass.scores, False),
    "cnn": (
        Cnn((Conv(ONES[:1].reshape(1, 1, 1, 1), ONES[:1], padding=0),), (Dense(np.full((36, 6), 0.01, "f"), -ONES),)),
        cnn.scores, True,
    ),
    "onnx": (user(), onnx_graph.scores, False),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_scores_and_evidence(name: str) -> None:
    detector, module, logits = KINDS[name]
    got = ran(lambda e: scores(e, context("plain"), detector), a=A)
    want = ran(lambda e: module(e, context("plain"), detector), a=A)  # type: ignore[operator]
    np.testing.assert_array_equal(got, want)
    assert gives_logits(detector) is logits
    added = ran(lambda e: evidence(e, context("plain"), detector), a=A)
    np.testing.assert_allclose(1 / (1 + np.exp(-added.astype(np.float64))) if logits else added, got, rtol=1e-4)


@pytest.mark.parametrize("opset", [16, 17, 18])
def test_a_users_graph_is_converted_to_the_opset_at_hand(opset: int) -> None:
    got = ran(lambda e: onnx_graph.scores(e, context("plain"), user()), a=A, opset=opset)
    np.testing.assert_allclose(got, A.mean((1, 2)) * 3, rtol=1e-5)


def test_two_of_a_users_graphs_do_not_meet() -> None:
    def emit(e: Emitter) -> str:
        first, second = (onnx_graph.scores(e, context("plain"), user()) for _ in range(2))
        return e.op("Add", first, second)

    np.testing.assert_allclose(ran(emit, a=A), A.mean((1, 2)) * 6, rtol=1e-5)


TWO_IN = "d (float[B,H,Q,K] map, float[B,H,Q,K] more) => (float[B,K] score) {{ {} }}"
TWO_OUT = "d (float[B,H,Q,K] map) => (float[B,K] score, float[B,K] h) {{ {} }}"
NONE_IN = "d () => (float[1,1] score) {{ {} }}"
REFUSED = {
    "two-inputs": (user(BODY.replace("(map)", "(more)"), graph=TWO_IN), "2 inputs and 1 outputs"),
    "no-input": (user("score = Constant<value = float[1,1] {1.0}>()", graph=NONE_IN), "0 inputs and 1 outputs"),
    "two-outputs": (user(graph=TWO_OUT), "1 inputs and 2 outputs"),
    "other-domain": (
        user("score = other.Score(map)", header='<ir_version: 8, opset_import: ["" : {}, "other" : 1]>'), "other",
    ),
    "functions": (
        user("score = local.f(map)", header='<ir_version: 8, opset_import: ["" : {}, "local" : 1]>',
             rest='<domain: "local", opset_import: ["" : 17]> f (x) => (y) { y = Neg(x) }'),
        "local",
    ),
    "no-model": (OnnxGraph(b"not a model"), "not a valid ONNX model"),
    "reads-what-nobody-makes": (user("score = ReduceMean<axes = [1, 2], keepdims = 0>(gone)"), "a valid ONNX model"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_users_graph_that_cannot_be_spliced_in_is_refused(name: str) -> None:
    detector, reason = REFUSED[name]
    with pytest.raises(AtpatchError, match=reason) as caught:
        ran(lambda e: onnx_graph.scores(e, context("plain"), detector), a=A)
    assert caught.value.code == "ATP017"


def test_a_weight_that_is_an_input_too_is_a_weight() -> None:
    graph = GRAPH.replace("(float[B,H,Q,K] map)", "(float[B,H,Q,K] map, float scale)")
    got = ran(lambda e: onnx_graph.scores(e, context("plain"), user(graph=graph)), a=A)
    np.testing.assert_allclose(got, A.mean((1, 2)) * 3, rtol=1e-5)
