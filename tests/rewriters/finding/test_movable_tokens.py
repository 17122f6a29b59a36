"""Whether a model is shown to be a text encoder whose tokens may stand anywhere."""

from __future__ import annotations

import dataclasses

import onnx
import onnx.parser
import pytest

from rewriters.finding.finder import find_sites
from rewriters.finding.movable_tokens import Doubt, doubt

TABLE = ",".join("1" * 12)
CONSTANTS = (
    f"float[3,4] table = {{{TABLE}}}, float[4,4] w = {{{','.join('1' * 16)}}}, int64[2] mid = {{1,2}}, float"
    f" one = {{1}},"
    " float low = {-10000}, float[3,3] rows = {0,0,0,0,0,0,0,0,0}, float[4] line = {1,2,3,4}"
)
IDS = "int64[B,K] ids"
HEAD = "q = MatMul(x, w) k = MatMul(x, w) v = MatMul(x, w) kt = Transpose<perm = [0,2,1]>(k) s = MatMul(q, kt)"
TAIL = "p = Softmax<axis = -1>(m) o = MatMul(p, v)"


def model(
    inputs: str, embed: str, between: str = "m = Identity(s)", head: str = HEAD, tail: str = TAIL
) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "local" : 1]>
        g ({inputs}) => (float[B,K,4] o) <{CONSTANTS}> {{ {embed} {head} {between} {tail} }}"""
    )


def doubted(made: onnx.ModelProto) -> Doubt | None:
    sites, rejected = find_sites(made)
    assert sites, rejected
    return doubt(made, sites)


PADDING = "f = Cast<to = 1>(attention_mask) u = Unsqueeze(f, a1) n = Sub(one, u) h = Mul(n, low) m = Add(s, h)"

# inputs, how x is made, what is done to the scores → a word of the doubt, None where there is none
MODELS = {
    "looked up": (IDS, "x = Gather(table, ids)", "m = Identity(s)", None),
    "a fixed number of texts": ("int64[2,K] ids", "x = Gather(table, ids)", "m = Identity(s)", None),
    "32 bits": ("int32[B,K] ids", "x = Gather(table, ids)", "m = Identity(s)", None),
    "cast ids": (IDS, "j = Cast<to = 6>(ids) x = Gather(table, j)", "m = Identity(s)", None),
    "padding": (f"{IDS}, int64[B,K] attention_mask", "x = Gather(table, ids)", PADDING, None),
    "scaled": (IDS, "e = Gather(table, ids) x = Mul(e, one)", "m = Identity(s)", None),
    "its sizes": (
        IDS,
        "e = Gather(table, ids) z = Shape(ids) c = ConstantOfShape(z) d = Unsqueeze(c, a2) x = Add(e, d)",
        "m = Identity(s)",
        None,
    ),
    "numbers of an image": ("float[B,K,4] x", "", "m = Identity(s)", "reads x, not only tokens"),
    "numbers beside ids": (
        f"{IDS}, float[B,K,4] extra",
        "e = Gather(table, ids) x = Add(e, extra)",
        "m = Identity(s)",
        "reads extra",
    ),
    "two others": (
        f"{IDS}, float[B,K,4] extra, float[B,K,4] another",
        "e = Gather(table, ids) d = Add(e, extra) x = Add(d, another)",
        "m = Identity(s)",
        "reads another, extra",
    ),
    "ids that are no whole numbers": (
        "float[B,K] ids",
        "j = Cast<to = 7>(ids) x = Gather(table, j)",
        "m = Identity(s)",
        "looked up in a table",
    ),
    "a fed table": (f"{IDS}, float[3,4] rows_of", "x = Gather(rows_of, ids)", "m = Identity(s)", "reads"),
    "fixed length": ("int64[B,3] ids", "x = Gather(table, ids)", "m = Identity(s)", "the length of"),
    "causal": (
        IDS,
        "x = Gather(table, ids)",
        "z = Shape(s) c = Constant<value_float = -10000.0>() big = Expand(c, z) h = Trilu<upper = 1>(big, i1) m"
        " = Add(s, h)",
        "causal",
    ),
    "a bias for each column": (f"{IDS}, float[B,1,K] bias", "x = Gather(table, ids)", "m = Add(s, bias)", None),
    "a bias for each row and column": (
        f"{IDS}, float[B,K,K] bias",
        "x = Gather(table, ids)",
        "m = Add(s, bias)",
        "row to row",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_model(case: str) -> None:
    inputs, embed, between, word = MODELS[case]
    made = model(inputs, embed, between)
    for name, numbers in (("a1", [1]), ("a2", [2])):
        made.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [1], numbers))
    made.graph.initializer.append(onnx.helper.make_tensor("i1", onnx.TensorProto.INT64, [], [1]))
    found = doubted(made)
    if word is None:
        assert found is None
    else:
        assert found is not None and word in found.why
        assert found.decoder is (case in ("causal", "a bias for each row and column"))


def test_a_fixed_number_of_columns_is_enough_for_a_doubt() -> None:
    made = model(IDS, "x = Gather(table, ids)")
    ((site,), _) = find_sites(made)
    assert doubt(made, [site]) is None
    found = doubt(made, [dataclasses.replace(site, key_size=7)])
    assert found is not None and "the length of" in found.why


def test_keys_of_another_text() -> None:
    head = "q = MatMul(x, w) k = MatMul(z, w) v = MatMul(z, w) kt = Transpose<perm = [0,2,1]>(k) s = MatMul(q, kt)"
    made = model("int64[B,Q] ids, int64[B,K] others", "x = Gather(table, ids) z = Gather(table, others)", head=head)
    found = doubted(made)
    assert found is not None and found.decoder and "another text" in found.why


def test_a_site_in_a_branch() -> None:
    tail = (
        "o = If (c) <then_branch = f () => (float[B,K,4] t) { p = Softmax<axis = -1>(m) t = MatMul(p, v) },"
        " else_branch = g () => (float[B,K,4] e) { e = Identity(v) }>"
    )
    found = doubted(model(f"{IDS}, bool c", "x = Gather(table, ids)", tail=tail))
    assert found is not None and found.decoder and "branch" in found.why


def test_behind_a_site_only_its_values_count() -> None:
    """What is added to the scores of the first layer is no source of the second's values; what the values are is."""
    second = (
        "p = Softmax<axis = -1>(m) y = MatMul(p, v) q2 = MatMul(y, w) k2 = MatMul(y, w) kt2 = Transpose<perm ="
        " [0,2,1]>(k2)"
        " s2 = MatMul(q2, kt2) p2 = Softmax<axis = -1>(s2) o = MatMul(p2, y)"
    )
    made = model(f"{IDS}, float[B,1,K] bias", "x = Gather(table, ids)", "m = Add(s, bias)", tail=second)
    sites, _ = find_sites(made)
    assert len(sites) == 2
    assert doubt(made, sites) is None


def test_an_embedding_of_onnxruntime_looks_up_too() -> None:
    embed = "x, index = com.microsoft.EmbedLayerNormalization(ids, , table, table, , line, line)"
    made = model("int32[B,K] ids", embed)
    found = doubted(made)
    assert found is not None and "rows" in found.why


def test_a_branch_that_makes_values_is_looked_into() -> None:
    embed = (
        "e = Gather(table, ids) x = If (c) <then_branch = f () => (float[B,K,4] t) { t = Add(e, extra) },"
        " else_branch = g () => (float[B,K,4] u) { u = Identity(e) }>"
    )
    found = doubted(model(f"{IDS}, bool c, float[B,K,4] extra", embed))
    assert found is not None and "extra" in found.why
