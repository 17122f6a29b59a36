"""What the search saw, as people read it: operators, side inputs, ends."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto

from rewriters.finding.finder import trace_sites
from rewriters.sites import Rejection, Site
from rewriters.traces import Edge, Trace

from ..patterns import ints, model, scalar, weight

Q4 = "float[B,3,S,4] q, float[B,3,4,T] k, float[B,3,T,4] v"
MASK = "float[B,1,S,T] mask"


def traced(body: str, inputs: str = Q4, **constants: object) -> Trace:
    (trace,) = trace_sites(model(body, inputs, **constants)).traces
    return trace


def shown(trace: Trace) -> list[tuple[str, str, dict[str, str]]]:
    """Part, operator, and value name → role of what comes in from the side."""
    return [(step.part, step.op_type, {side.edge.name: side.role for side in step.sides}) for step in trace.steps]


def test_a_chain_with_its_side_inputs() -> None:
    trace = traced(
        "s = MatMul(q, k) d = Div(s, root) m = Add(mask, d) p = Softmax<axis = -1>(m) e = Cast<to = 1>(p)"
        " out = MatMul(e, v)",
        f"{Q4}, {MASK}", root=scalar(2),
    )  # fmt: skip
    assert isinstance(trace.verdict, Site)
    assert shown(trace) == [
        ("scores", "MatMul", {"q": "queries", "k": "keys"}),
        ("before", "Div", {"root": "divisor"}),
        ("before", "Add", {"mask": "added"}),
        ("softmax", "Softmax", {}),
        ("after", "Cast", {}),
        ("product", "MatMul", {"v": "values"}),
    ]
    assert (trace.softmax, trace.op_type, trace.output, trace.body) == ("softmax_3", "Softmax", "p", "")
    assert (trace.axis, trace.position, trace.source, trace.ends) == (-1, 3, None, ())
    assert trace.steps[0].output == Edge("s", ("B", 3, "S", "T"), TensorProto.FLOAT, "MatMul", ("k", "q"))
    assert trace.steps[1].sides[0].edge == Edge("root", (), TensorProto.FLOAT, "constant")
    assert [side.operand for side in trace.steps[2].sides] == [0]
    assert trace.steps[2].sides[0].edge == Edge("mask", ("B", 1, "S", "T"), TensorProto.FLOAT, "graph input", ("mask",))
    assert [step.node for step in trace.steps] == ["matmul_0", "div_1", "add_2", "softmax_3", "cast_4", "matmul_5"]


FACTORS = {
    "keys-first": (
        "kt = Transpose<perm = [0, 1, 3, 2]>(k) qt = Transpose<perm = [0, 1, 3, 2]>(q) s = MatMul(kt, qt)"
        " p = Softmax<axis = -2>(s) vt = Transpose<perm = [0, 1, 3, 2]>(v) out = MatMul(vt, p)",
        {"kt": "keys", "qt": "queries"},
    ),
    "einsum": (
        's = Einsum<equation = "bhsd, bhdt -> bhst">(q, k) p = Softmax<axis = -1>(s) out = MatMul(p, v)',
        {"q": "queries", "k": "keys"},
    ),
    "einsum-keys-first": (
        's = Einsum<equation = "bhdt,bhsd->bhst">(k, q) p = Softmax<axis = -1>(s) out = MatMul(p, v)',
        {"q": "queries", "k": "keys"},
    ),
    "einsum-with-dots": (
        's = Einsum<equation = "...sd,...dt->...st">(q, k) p = Softmax<axis = -1>(s) out = MatMul(p, v)',
        {"q": "queries", "k": "keys"},
    ),
    "turned": (
        "r = MatMul(q, k) s = Transpose<perm = [0, 1, 3, 2]>(r) p = Softmax<axis = -2>(s)"
        " t = Transpose<perm = [0, 1, 3, 2]>(p) out = MatMul(t, v)",
        {"q": "queries", "k": "keys"},
    ),
    "learned-queries": (
        "s = MatMul(learned, k) p = Softmax<axis = -1>(s) out = MatMul(p, v)",
        {"learned": "learned queries", "k": "keys"},
    ),
    "lost-on-the-way": (
        "r = MatMul(q, k) f = Reshape(r, odd) s = Reshape(f, four) p = Softmax<axis = -1>(s) out = MatMul(p, v)",
        {"q": "factor", "k": "factor"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "factors"), FACTORS.values(), ids=FACTORS)
def test_queries_and_keys_are_distinguished(body: str, factors: dict[str, str]) -> None:
    inputs = "float[2,3,5,4] q, float[2,3,4,7] k, float[2,3,7,4] v" if "lost" in body or "odd" in body else Q4
    constants = {"learned": weight(1, 3, 5, 4), "odd": ints(35, 6), "four": ints(2, 3, 5, 7)}
    trace = traced(body, inputs, **{name: array for name, array in constants.items() if name in body})
    assert shown(trace)[0][2] == factors


def test_parts_of_a_sum_are_queries_and_keys_together() -> None:
    trace = traced(
        "qa = MatMul(x, a) kb = MatMul(x, b) kt = Transpose<perm = [0, 2, 1]>(kb) s = Add(qa, kt) l = LeakyRelu(s)"
        " p = Softmax<axis = -1>(l) v = MatMul(x, w) out = MatMul(p, v)",
        "float[B,S,8] x", a=weight(8, 1), b=weight(8, 1, seed=1), w=weight(8, 4),
    )  # fmt: skip
    assert shown(trace)[0][2] == {"qa": "added", "kt": "added"}


def test_a_score_vector_has_a_role_of_its_own() -> None:
    trace = traced(
        "a = Unsqueeze(q, two) b = Unsqueeze(k, one) s = Add(a, b) e = Tanh(s) r = MatMul(e, w) x = Squeeze(r, last)"
        " p = Softmax<axis = -1>(x) out = MatMul(p, v)",
        "float[2,5,4] q, float[2,7,4] k, float[2,7,4] v", w=weight(4, 1), one=ints(1), two=ints(2), last=ints(-1),
    )  # fmt: skip
    assert shown(trace)[0] == ("scores", "MatMul", {"e": "queries + keys", "w": "score vector"})


def test_a_decomposed_softmax_is_several_operators() -> None:
    trace = traced(
        "s = MatMul(q, k) top = ReduceMax<axes = [-1]>(s) d = Sub(s, top) e = Exp(d) t = ReduceSum(e, last)"
        " p = Div(e, t) out = MatMul(p, v)",
        last=ints(-1),
    )  # fmt: skip
    assert shown(trace) == [
        ("scores", "MatMul", {"q": "queries", "k": "keys"}),
        ("softmax", "Sub", {"top": "maximum"}),
        ("softmax", "Exp", {}),
        ("softmax", "Div", {"t": "sum"}),
        ("product", "MatMul", {"v": "values"}),
    ]


def test_a_fused_operator_is_one_step() -> None:
    trace = traced(
        "out = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v)",
        "float[B,S,8] q, float[B,T,8] k, float[B,T,8] v",
    )
    assert isinstance(trace.verdict, Site)
    assert shown(trace) == [("fused", "MultiHeadAttention", {"q": "queries", "k": "keys", "v": "values"})]
    assert trace.axis == -1


def test_a_rejected_map_says_where_it_ended() -> None:
    trace = traced(
        "s = MatMul(q, k) p = Softmax<axis = -1>(s) e = Mul(p, half) out = MatMul(e, w)",
        half=scalar(0.5),
        w=weight(7, 4),
    )
    assert isinstance(trace.verdict, Rejection)
    assert trace.source is not None and trace.source.name == "s" and trace.axis == -1
    assert shown(trace) == [("softmax", "Softmax", {})]
    (end,) = trace.ends
    assert (end.direction, end.op_type, end.node, end.code, end.reported) == (
        "forward",
        "MatMul",
        "matmul_3",
        "constant-values",
        True,
    )
    assert [(step.part, step.op_type, [side.edge.name for side in step.sides]) for step in end.steps] == [
        ("after", "Mul", ["half"])
    ]


def test_a_rejected_map_says_every_end_and_which_tells() -> None:
    trace = traced("s = MatMul(q, k) p = Softmax<axis = -1>(s) e = MatMul(p, w) out = Identity(p)", w=weight(7, 4))
    assert {end.code: end.reported for end in trace.ends} == {"constant-values": True, "output": False}
    assert {end.op_type for end in trace.ends} == {"MatMul", ""} and {end.node for end in trace.ends} == {
        "matmul_2",
        "",
    }


def test_rejected_scores_say_where_they_came_from() -> None:
    trace = traced(
        "s = MatMul(q, w) m = Add(s, mask) p = Softmax<axis = -1>(m) out = MatMul(p, v)",
        "float[B,1,S,4] q, float[B,1,5,4] v, float[B,1,S,5] mask", w=weight(4, 5),
    )  # fmt: skip
    assert isinstance(trace.verdict, Rejection) and trace.verdict.code == "constant-scores"
    assert trace.source is not None and trace.source.name == "m"
    assert shown(trace) == [("softmax", "Softmax", {}), ("product", "MatMul", {"v": "values"})]
    (end,) = trace.ends
    assert (end.direction, end.op_type, end.code, end.reported) == ("backward", "MatMul", "constant-scores", True)
    assert [(step.part, step.op_type, [side.edge.name for side in step.sides]) for step in end.steps] == [
        ("before", "Add", ["mask"])
    ]


def test_a_softmax_without_an_axis_that_can_be_used_is_one_step() -> None:
    trace = traced("z = Unknown(q) p = Softmax<axis = 1>(z) out = MatMul(p, v)", opset=12)
    assert isinstance(trace.verdict, Rejection)
    assert shown(trace) == [("softmax", "Softmax", {"z": "input"})] and trace.axis is None and trace.ends == ()
    assert trace.source is None


def test_edges_say_which_inputs_they_are_made_of() -> None:
    """Sizes do not count, and borders of bodies do not stop them."""
    trace = traced(
        "h = Shape(other) z = ConstantOfShape(h) a = Add(mask, z) s = MatMul(q, k) m = Add(s, a)"
        " p = Softmax<axis = -1>(m) out = MatMul(p, v)",
        f"{Q4}, {MASK}, float[B,1,S,T] other",
    )  # fmt: skip
    assert trace.steps[1].sides[0].edge.inputs == ("mask",)
    assert trace.steps[-1].output.inputs == ("k", "mask", "q", "v")


def test_a_site_in_a_branch_names_its_body() -> None:
    branch = "{0}_branch = {0}g () => (float[B,3,S,4] {0}o) {{ {1} }}"
    then = "s = MatMul(q, k) p = Softmax<axis = -1>(s) to = MatMul(p, v)".replace("to =", "theno =")
    chosen = f"{branch.format('then', then)}, {branch.format('else', 'elseo = Identity(v)')}"
    trace = traced(f"out = If<{chosen}>(c)", f"{Q4}, bool c")
    assert trace.body == "then_branch of If if_0"
    assert trace.steps[0].body == "then_branch of If if_0" and trace.steps[0].sides[0].edge.origin == "graph input"


def test_a_site_in_a_function_names_its_body_and_its_inputs() -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 17, "local" : 1]> g (float[B,3,S,4] q, float[B,3,4,T] k,'
        " float[B,3,T,4] v) => (float[B,3,S,4] out) { out = local.attend(q, k, v) }"
        ' <domain: "local", opset_import: ["" : 17]> attend (a, b, d) => (o)'
        " { s = MatMul(a, b) p = Softmax<axis = -1>(s) o = MatMul(p, d) }"
    )
    (trace,) = trace_sites(onnx.parser.parse_model(text)).traces
    assert trace.body == "function local::attend"
    assert [side.edge.inputs for side in trace.steps[0].sides] == [("q",), ("k",)]
    assert trace.steps[0].sides[0].edge.origin == "body input"
    assert trace.steps[0].output.inputs == ("k", "q")


def test_names_that_inference_made_up_are_not_shown() -> None:
    trace = traced(
        "u = Reshape(mask, n) s = MatMul(q, k) m = Add(s, u) p = Softmax<axis = -1>(m) out = MatMul(p, v)",
        f"{Q4}, float[B,S] mask, int64[4] n",
    )  # fmt: skip
    assert trace.steps[1].sides[0].edge.shape == (None,) * 4


def test_scopes_of_all_nodes_are_kept() -> None:
    made = model("s = MatMul(q, k) p = Softmax<axis = -1>(s) out = MatMul(p, v)", Q4)
    for node in made.graph.node:
        node.name = f"/layer.0/attention/{node.op_type}"
    made.graph.node[1].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'layer.1', 'softmax']")
    assert trace_sites(made).scopes == ("layer.0.attention", "layer.1", "layer.0.attention")


def test_a_loop_that_decomposes_nothing() -> None:
    """The operators inside a normalization are found by type; where one is missing, the rest is reported."""
    trace = traced("s = MatMul(q, k) p = Relu(s) out = MatMul(p, v)")
    assert shown(trace)[1] == ("softmax", "Relu", {})
