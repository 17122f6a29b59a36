"""The finder against the pattern table, real exports, and graphs that are broken, large or without weights."""

from __future__ import annotations

import copy
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from rewriters.editing.fused_sites import lower_fused_sites
from rewriters.finding.finder import REASONS, find_sites
from rewriters.lowering import FUSED
from rewriters.model.bodies import body_at
from rewriters.sites import Site
from tests.exports import ATTENTION, EXPORTERS, FAMILIES, KNOWN_FAILURES, export_model

from ..graphs import session
from ..maps import MAPS
from ..patterns import PATTERNS, Pattern, model as made
from .stacked_sites import constant, stacked

TABLE = [*PATTERNS, *MAPS]
each_pattern = pytest.mark.parametrize("pattern", TABLE, ids=[pattern.id for pattern in TABLE])
KEPT = ("+integer", "+qlinear", "+divided", "+summed", "+signed")
"""Products whose own operators stay have tests of their own, in test_product_forms."""
WITH_SITES = [p for p in TABLE if p.sites and not p.id.startswith("scope-") and not p.sites[0].form.endswith(KEPT)]
with_sites = pytest.mark.parametrize("pattern", WITH_SITES, ids=[p.id for p in WITH_SITES])


def test_ids_are_unique() -> None:
    assert len({pattern.id for pattern in TABLE}) == len(TABLE)


@each_pattern
def test_models_of_the_table_are_valid_and_run(pattern: Pattern) -> None:
    onnx.checker.check_model(pattern.model, full_check=True)
    assert session(pattern.model).run(None, pattern.feeds())


@each_pattern
def test_sites_and_rejections(pattern: Pattern) -> None:
    sites, rejected = find_sites(pattern.model)
    found = [(site.form, site.query_axis, site.key_axis, site.operand, site.heads) for site in sites]
    assert found == [(want.form, want.query_axis, want.key_axis, want.operand, want.heads) for want in pattern.sites]
    assert [rejection.code for rejection in rejected] == list(pattern.rejected)
    assert all(rejection.reason.startswith(REASONS[rejection.code]) for rejection in rejected)


@each_pattern
def test_names_lead_into_the_graph(pattern: Pattern) -> None:
    sites, _ = find_sites(pattern.model)
    assert len({site.id for site in sites}) == len(sites)
    for site in sites:
        body = body_at(pattern.model, site.where)
        products = [node for node in body.node if site.product in node.output]
        assert len(products) == 1
        if site.form.endswith(KEPT):
            continue
        assert products[0].name in (site.matmul, "")
        assert site.values in products[0].input
        assert site.quantizer or site.form in FUSED or products[0].input[site.operand] == site.probabilities


@with_sites
def test_layout_is_that_of_the_product(pattern: Pattern) -> None:
    """Brought to canonical order, P·V is the product's output, and P is normalized along the key axis."""
    found, _ = find_sites(pattern.model)
    lowered, sites = lower_fused_sites(pattern.model, found)
    values = inner_values(lowered, sites, pattern.feeds())
    for unlowered, site in zip(found, sites, strict=True):
        p, v, out = (values[name].astype(np.float64) for name in (site.probabilities, site.values, site.product))
        if out.ndim == p.ndim - 1:  # heads side by side
            out = ordered(out.reshape(*out.shape[:2], site.heads, -1), unlowered.layout.output or (0, 2, 1, 3))
        tolerance = 2e-2 if site.quantizer or site.dtype == TensorProto.FLOAT16 else 1e-5
        layout = site.layout
        assert p.ndim == layout.rank
        if pattern.sums_to_one and not site.quantizer:
            np.testing.assert_allclose(p.sum(site.key_axis), 1, atol=tolerance)
        v = ordered(v, layout.values)
        if layout.values_lack:
            v = np.expand_dims(v, layout.values_lack)
        rows = ordered(out, layout.output)
        if layout.widths > 1:
            v, rows = (array.reshape(*array.shape[: p.ndim - 1], -1) for array in (v, rows))
        product = np.matmul(ordered(p, layout.probabilities), v)
        np.testing.assert_allclose(product, rows, atol=tolerance)
        assert ordered(p, layout.probabilities).shape[-2:] == (p.shape[site.query_axis], p.shape[site.key_axis])
        if site.head_axis is not None:
            assert p.shape[site.head_axis] == site.heads
        if site.head_dim is not None:
            assert v.shape[-1] == site.head_dim


def ordered(array: np.ndarray, permutation: tuple[int, ...] | None) -> np.ndarray:
    return array if permutation is None else array.transpose(permutation)


def inner_values(
    model: onnx.ModelProto, sites: tuple[Site, ...], feeds: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What the graph computes for P, V and P·V of each site, without any optimization."""
    names = {name: site.dtype for site in sites for name in (site.probabilities, site.values, site.product)}
    model = copy.deepcopy(model)
    given = {value.name for value in (*model.graph.input, *model.graph.output)}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, dtype, None) for name, dtype in names.items() if name not in given
    )
    live = session(model, optimize=False)
    outputs = [value.name for value in live.get_outputs()]
    return {**feeds, **dict(zip(outputs, live.run(outputs, feeds), strict=True))}


def pattern(name: str) -> onnx.ModelProto:
    return next(p.model for p in PATTERNS if p.id == name)


def test_qdq_is_read_before_the_quantizer() -> None:
    (site,), _ = find_sites(pattern("22-qdq"))
    assert (site.probabilities, site.quantizer, site.values) == ("p", "p_q", "v_d")
    assert site.chain == (
        "MatMul",
        "Add",
        "QuantizeLinear",
        "DequantizeLinear",
        "Softmax",
        "QuantizeLinear",
        "DequantizeLinear",
        "MatMul",
    )


def test_map_is_read_after_the_nan_guard() -> None:
    (site,), _ = find_sites(pattern("03-sdpa-nan-guard"))
    assert (site.probabilities, site.chain) == ("g", ("MatMul", "Add", "Softmax", "Where", "MatMul"))


def test_decomposed_chain_names_every_operator_once() -> None:
    (site,), _ = find_sites(pattern("20-decomposed-opset-11"))
    assert site.chain == ("MatMul", "Sub", "Exp", "Div", "MatMul")


def test_merged_heads_come_from_the_reshape() -> None:
    for name in ("08-deberta-merged", "14-bloom-alibi", "11-clip-old"):
        (site,), _ = find_sites(pattern(name))
        assert (site.layout.rank, site.layout.merged_heads, site.head_axis) == (3, 3, None)


def test_image_axes_are_not_taken_for_heads() -> None:
    """(B, C, H, W) -> (B, C, H·W), as in the attention block of an image decoder, merges pixels and not heads."""
    graph = parse(
        "f = Reshape(x, flat) q = MatMul(wq, f) k = MatMul(wk, f) v = MatMul(wv, f) qt = Transpose<perm = [0,2,1]>(q)"
        " qk = MatMul(qt, k) p = Softmax<axis = 2>(qk) pt = Transpose<perm = [0,2,1]>(p) o = MatMul(v, pt) out ="
        " Reshape(o, image)",
        "float[B,6,8,8] x, float[6,6] wq, float[6,6] wk, float[6,6] wv, int64[3] flat, int64[4] image",
        "float[B,6,8,8] out",
    )
    for name, value in {"flat": [0, 6, 64], "image": [0, 6, 8, 8]}.items():
        constant(graph, name, np.array(value))
    for name in ("wq", "wk", "wv"):
        constant(graph, name, np.ones((6, 6), np.float32))
    (site,), _ = find_sites(graph)
    assert (site.layout.merged_heads, site.heads, site.operand, site.self_attention) == (None, None, 1, True)


def test_confidence_drops_where_a_reshape_cannot_be_followed() -> None:
    graph = parse(
        "kt = Transpose<perm = [0,2,1]>(k) qk = MatMul(q, kt) p = Softmax<axis = -1>(qk) r = Reshape(p, target) out ="
        " MatMul(r, v)",
        "float[N,S,D] q, float[N,T,D] k, float[B,H,T,D] v, int64[4] target",
        "float[B,H,S,D] out",
    )
    (site,), _ = find_sites(graph)
    assert site.confidence == "medium"


def test_scope_from_the_exporter_then_from_the_node_name() -> None:
    model = copy.deepcopy(pattern("28-differential"))
    first, second = (node for node in model.graph.node if node.op_type == "Softmax")
    first.metadata_props.add(
        key="pkg.torch.onnx.name_scopes", value="['', 'encoder', 'encoder.layer.0', 'encoder.layer.0.attn', 'softmax']"
    )
    second.name = "/encoder/layer.0/attn/Softmax"
    sites, _ = find_sites(model)
    assert [site.scope for site in sites] == ["encoder.layer.0.attn"] * 2
    assert [site.id for site in sites] == ["encoder.layer.0.attn", "encoder.layer.0.attn.2"]
    first.metadata_props[0].value = "not a list ["
    assert find_sites(model)[0][0].scope == first.name


def test_unnamed_nodes_go_by_their_output() -> None:
    model = copy.deepcopy(pattern("11-vit"))
    for node in model.graph.node:
        node.name = ""
    (site,), _ = find_sites(model)
    assert (site.softmax, site.matmul, site.scope) == ("p", "out", "softmax_1")


def test_where_leads_to_the_body_of_the_product() -> None:
    def paths(name: str) -> list[tuple[tuple[int, str], ...]]:
        return [site.where for site in find_sites(pattern(name))[0]]

    assert paths("scope-if-branches") == [((0, "then_branch"),), ((0, "else_branch"),)]
    assert paths("scope-map-enters-if") == [((3, "then_branch"),)]
    assert paths("scope-loop-body") == [((0, "body"),)]
    assert paths("scope-function") == [((0, "function"),)]
    assert paths("scope-softmax-in-function") == [(), ()]


PROJECTED = "q0 = MatMul({0}, wq) k0 = MatMul({1}, wk) v = MatMul({1}, wv) "
ATTEND = "kt = Transpose<perm = [0,2,1]>({1}) qk = MatMul({0}, kt) {2} p = Softmax<axis = -1>({3}) out = MatMul(p, v)"
WEIGHTS = "float[8,8] wq, float[8,8] wk, float[8,8] wv"


def projected(body: str, inputs: str, **constants: np.ndarray) -> onnx.ModelProto:
    graph = parse(body, f"{inputs}, {WEIGHTS}", "float[B,S,8] out")
    for name in ("wq", "wk", "wv"):
        constant(graph, name, np.eye(8, dtype=np.float32))
    for name, value in constants.items():
        graph.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return graph


def parse(body: str, inputs: str, outputs: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {body} }}')


@pytest.mark.parametrize(
    ("expected", "body", "inputs"),
    [
        (True, PROJECTED.format("x", "x") + ATTEND.format("q0", "k0", "", "qk"), "float[B,S,8] x"),
        (False, PROJECTED.format("x", "y") + ATTEND.format("q0", "k0", "", "qk"), "float[B,S,8] x, float[B,T,8] y"),
        (
            True,  # rotary: both factors read the same angles
            PROJECTED.format("x", "x")
            + "q1, q2 = Split<axis = -1>(q0) qr = Concat<axis = -1>(q2, q1) qa = Mul(q0, cos) qb = Mul(qr, sin) qc ="
            " Add(qa, qb)"
            + " k1, k2 = Split<axis = -1>(k0) kr = Concat<axis = -1>(k2, k1) ka = Mul(k0, cos) kb = Mul(kr, sin) kc ="
            " Add(ka, kb) " + ATTEND.format("qc", "kc", "", "qk"),
            "float[B,S,8] x, float[1,S,8] cos, float[1,S,8] sin",
        ),
        (
            False,  # a cache makes the keys longer than the queries
            PROJECTED.format("x", "x") + "ka = Concat<axis = 1>(past, k0) " + ATTEND.format("q0", "ka", "", "qk"),
            "float[B,S,8] x, float[B,P,8] past",
        ),
        (
            False,  # queries of the first token only
            "first = Slice(x, zero, one, one) " + PROJECTED.format("first", "x") + ATTEND.format("q0", "k0", "", "qk"),
            "float[B,S,8] x, int64[1] zero, int64[1] one",
        ),
        (
            True,  # low-rank projections meet one projection further back
            "a = MatMul(x, wq) b = MatMul(x, wk) " + PROJECTED.format("a", "b") + ATTEND.format("q0", "k0", "", "qk"),
            "float[B,S,8] x",
        ),
    ],
    ids=["projections", "cross", "rotary", "cache", "first-token", "low-rank"],
)
def test_self_attention(expected: bool, body: str, inputs: str) -> None:
    (site,), _ = find_sites(projected(body, inputs))
    assert site.self_attention is expected


MASKED = PROJECTED.format("x", "x")
ADDITIVE = "m = Unsqueeze(attention_mask, one) f = Cast<to = 1>(m) i = Sub(unit, f) b = Mul(i, low) s = Add(qk, b)"


@pytest.mark.parametrize(
    ("expected", "mask", "inputs"),
    [
        ("attention_mask", ADDITIVE, "int64[B,S] attention_mask"),
        (
            "attention_mask",
            "m = Unsqueeze(attention_mask, one) c = Cast<to = 9>(m) a = And(c, causal) s = Where(a, qk, low)",
            "int64[B,S] attention_mask, bool[1,S,S] causal",
        ),
        (
            "attention_mask",
            "m = Unsqueeze(attention_mask, one) b = Where(m, zero, low) s = Add(qk, b)",
            "bool[B,S] attention_mask",
        ),
        # Fed as a bias of 0 and -inf, so that 0 is a valid column:
        (None, "m = Unsqueeze(attention_mask, one) s = Add(qk, m)", "float[B,S] attention_mask"),
        # ALiBi counts tokens of the mask; the padding is shut by another operand:
        (
            "attention_mask",
            (
                "n = CumSum(attention_mask, last) o = Unsqueeze(n, one) c = Cast<to = 1>(o) a = Add(qk, c) m ="
                " Unsqueeze(attention_mask, one) k9 = Cast<to = 9>(m) s = Where(k9, a, low)"
            ),
            "int64[B,S] attention_mask",
        ),
        # True where a key is padding, as in torch.nn.Transformer:
        (None, "m = Unsqueeze(padding_mask, one) s = Where(m, low, qk)", "bool[B,S] padding_mask"),
        ("padding_mask", "n = Not(padding_mask) m = Unsqueeze(n, one) s = Where(m, low, qk)", "bool[B,S] padding_mask"),
        # Over query rows, not key columns:
        (None, "m = Unsqueeze(attention_mask, two) b = Where(m, zero, low) s = Add(qk, b)", "bool[B,S] attention_mask"),
        # Both, as DeBERTa has it:
        (
            "attention_mask",
            (
                "m = Unsqueeze(attention_mask, one) n = Unsqueeze(attention_mask, two) mn = Mul(m, n) c = Cast<to ="
                " 9>(mn) s = Where(c, qk, low)"
            ),
            "int64[B,S] attention_mask",
        ),
        # Shifted by a column on the way:
        (
            None,
            (
                "h = Slice(attention_mask, one, big, one) t = Concat<axis = 1>(h, pad) m = Unsqueeze(t, one) b ="
                " Where(m, zero, low) s = Add(qk, b)"
            ),
            "bool[B,S] attention_mask, bool[B,1] pad",
        ),
        # Another name:
        (None, "m = Unsqueeze(valid, one) b = Where(m, zero, low) s = Add(qk, b)", "bool[B,S] valid"),
        # Two masks:
        (
            None,
            "a = And(attention_mask, second_mask) m = Unsqueeze(a, one) b = Where(m, zero, low) s = Add(qk, b)",
            "bool[B,S] attention_mask, bool[B,S] second_mask",
        ),
        # A full map of masks:
        (None, "b = Where(attention_mask, zero, low) s = Add(qk, b)", "bool[B,S,S] attention_mask"),
        # Padded to the number of columns, which it has already:
        (
            "attention_mask",
            (
                "m = Unsqueeze(attention_mask, one) b = Where(m, zero, low) n = Shape<start = -1>(qk) w = Shape<start ="
                " -1>(b) d = Sub(n, w) a = Concat<axis = 0>(five, d) c = Pad(b, a, low) s = Add(qk, c)"
            ),
            "bool[B,S] attention_mask",
        ),
        # Padded, for all one knows:
        (
            None,
            (
                "m = Unsqueeze(attention_mask, one) b = Where(m, zero, low) n = Shape<start = -1>(qk) w = Shape<start ="
                " -1>(b) d = Sub(n, w) a = Concat<axis = 0>(five, d) c = Pad(b, a, low) s = Add(qk, c)"
            ),
            "bool[B,T] attention_mask",
        ),
        # One map for all samples, its rows the queries:
        (None, "b = Where(attention_mask, zero, low) s = Add(qk, b)", "bool[S,S] attention_mask"),
        # Whether 1 lets a column through depends on another input:
        (
            None,
            "e = Equal(attention_mask, flip) m = Unsqueeze(e, one) b = Where(m, zero, low) s = Add(qk, b)",
            "bool[B,S] attention_mask, bool[1,1] flip",
        ),
    ],
    ids=[
        "additive",
        "where-and-causal",
        "bias-of-where",
        "bias-as-input",
        "alibi",
        "padding-is-true",
        "padding-negated",
        "query-rows",
        "rows-and-columns",
        "shifted",
        "other-name",
        "two-masks",
        "full-map",
        "padded-by-nothing",
        "shorter-than-the-keys",
        "common-map",
        "either-polarity",
    ],
)
def test_key_mask(expected: str | None, mask: str, inputs: str) -> None:
    numbers = {
        "zero": np.float32(0),
        "unit": np.float32(1),
        "low": np.float32(-1e9),
        "one": np.array([1]),
        "two": np.array([2]),
        "big": np.array([99]),
        "last": np.int64(-1),
        "five": np.zeros(5, np.int64),
    }
    model = projected(MASKED + ATTEND.format("q0", "k0", mask, "s"), f"float[B,S,8] x, {inputs}", **numbers)
    (site,), _ = find_sites(model)
    assert site.key_mask == expected


@pytest.mark.parametrize(
    ("expected", "mask", "inputs"),
    [
        ("attention_mask", "m = Unsqueeze(attention_mask, middle)", "bool[B,S] attention_mask"),
        (
            "attention_mask",
            "u = Unsqueeze(attention_mask, middle) m = And(u, causal)",
            "bool[B,S] attention_mask, bool[1,1,S,S] causal",
        ),
        (
            "attention_mask",
            "u = Unsqueeze(attention_mask, middle) f = Cast<to = 1>(u) i = Sub(unit, f) m = Mul(i, low)",
            "int64[B,S] attention_mask",
        ),
        (None, "u = Unsqueeze(attention_mask, middle) m = Not(u)", "bool[B,S] attention_mask"),
        (None, "m = Identity(attention_mask)", "bool[S,S] attention_mask"),
        (None, "m = Unsqueeze(attention_mask, outer)", "bool[S,S] attention_mask"),
        (None, "m = Unsqueeze(attention_mask, middle)", "float[B,S] attention_mask"),
    ],
    ids=["bool", "bool-and-causal", "additive", "negated", "map", "map-of-all-samples", "bias-as-input"],
)
def test_key_mask_of_an_attention_operator(expected: str | None, mask: str, inputs: str) -> None:
    """Truth values let a column through, numbers are added to the scores."""
    body = (
        f"q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) {mask} out = Attention<q_num_heads = 2, kv_num_heads ="
        " 2>(q, k, v, m)"
    )
    numbers = {"unit": np.float32(1), "low": np.float32(-1e9), "middle": np.array([1, 2]), "outer": np.array([0, 1])}
    model = projected(body, f"float[B,S,8] x, {inputs}", **numbers)
    model.opset_import[0].version = 23
    (site,), _ = find_sites(model)
    assert (site.key_mask, site.self_attention, site.heads, site.head_dim) == (expected, True, 2, 4)


@pytest.mark.parametrize(("heads", "sites"), [("1", 1), ("H", 0)])
def test_a_map_of_one_head_that_an_operand_widens_is_no_longer_that_map(heads: str, sites: int) -> None:
    """Where sizes are names, a map of size 1 is still known to be widened by anything that is not 1."""
    widened = made(
        "kt = Transpose<perm = [0,1,3,2]>(k) qk = MatMul(q, kt) p = Softmax<axis = -1>(qk) w = Mul(p, scale) out ="
        " MatMul(w, v)",
        f"float[B,1,S,D] q, float[B,1,T,D] k, float[B,{heads},T,D] v, float[B,{heads},1,1] scale",
    )
    found, rejected = find_sites(widened)
    assert (len(found), len(rejected)) == (sites, 1 - sites)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_attention_layer_of_real_exports(family: str, exporter: str, attention: str) -> None:
    if (family, exporter, attention) in KNOWN_FAILURES:
        pytest.skip(KNOWN_FAILURES[family, exporter, attention])
    exported = export_model(family, exporter, attention)
    model = onnx.load(exported.path)
    sites, rejected = find_sites(model)
    assert len(sites) == exported.expected_sites
    assert not rejected
    assert all(site.confidence == "high" and site.heads and site.head_dim for site in sites)
    assert all(
        ("cross" in site.scope or "enc" in site.scope.lower().rsplit(".", 1)[-1]) != site.self_attention
        for site in sites
    )
    assert {site.key_mask for site in sites} <= {*exported.feeds(1), None}
    if family in ("bert", "deberta-v2", "gpt2", "llama"):
        assert {site.key_mask for site in sites} == {"attention_mask"}
    feeds = exported.feeds(2, padded=True)
    values = inner_values(model, sites, feeds)
    for site in sites:
        p, v, out = (values[name].astype(np.float64) for name in (site.probabilities, site.values, site.product))
        np.testing.assert_allclose(np.matmul(p, v), out, atol=1e-5)
        if site.key_mask:
            assert_hides_columns(p, feeds[site.key_mask] != 0, site)


def assert_hides_columns(p: np.ndarray, valid: np.ndarray, site: Site) -> None:
    """No query row attends to a column that the mask calls padding;
    rows that are padding themselves may do anything.
    """
    assert not valid.all()
    maps = p.reshape(len(valid), -1, *p.shape[-2:])
    for sample, columns in zip(maps, valid, strict=True):
        rows = columns if site.self_attention else slice(None)
        assert np.abs(sample[:, rows][..., ~columns]).max(initial=0) < 1e-6
        assert np.abs(sample[:, rows][..., columns]).max() > 0.1


def test_weights_are_neither_read_nor_needed() -> None:
    """Every large initializer points to a file that does not exist."""
    model = pattern("not-linear-attention")
    external = copy.deepcopy(model)
    for tensor in external.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="no/such/file")
    before = external.SerializeToString()
    assert find_sites(external) == find_sites(model)
    assert external.SerializeToString() == before


def test_initializers_listed_as_inputs_are_constants() -> None:
    model = copy.deepcopy(pattern("not-linear-attention"))
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    assert [rejection.code for rejection in find_sites(model)[1]] == ["constant-scores"] * 2


def test_contrib_operators_do_not_hide_shapes() -> None:
    """onnx's inference stops at SkipLayerNormalization; heads behind it are known all the same."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[B,S,8] x, float[B,S,8] skip, float[8]'
        f" gamma, {WEIGHTS}) => (float[B,S,8] out) <int64[4] split = {{0,0,2,4}}, int64[3] join = {{0,0,8}}> {{ h ="
        " com.microsoft.SkipLayerNormalization(x, skip, gamma) q0 = MatMul(h, wq) k0 = MatMul(h, wk) v0 = MatMul(h,"
        " wv) q1 = Reshape(q0, split) k1 = Reshape(k0, split) v1 = Reshape(v0, split) q = Transpose<perm ="
        " [0,2,1,3]>(q1) k = Transpose<perm = [0,2,3,1]>(k1) v = Transpose<perm = [0,2,1,3]>(v1) qk = MatMul(q, k) p ="
        " Softmax<axis = -1>(qk) o = MatMul(p, v) t = Transpose<perm = [0,2,1,3]>(o) out = Reshape(t, join) }"
    )
    for name in ("wq", "wk", "wv"):
        constant(model, name, np.eye(8, dtype=np.float32))
    (site,), _ = find_sites(model)
    assert (site.heads, site.head_axis, site.head_dim, site.layout.rank) == (2, -3, 4, 4)
    assert (site.confidence, site.self_attention) == ("high", True)


def test_rank_is_deduced_from_a_transpose() -> None:
    """No shape at all: custom operators in front, so only the permutation tells the rank."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "custom" : 1]> g (float[N] x) => (float[N] out) { q = custom.Q(x) k ='
        " custom.K(x) v = custom.V(x) qk = MatMul(q, k) p = Softmax<axis = -1>(qk) o = MatMul(p, v) out ="
        " Transpose<perm = [0,2,1,3]>(o) }"
    )
    (site,), _ = find_sites(model)
    assert site.layout.rank == 4
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Last", "custom"
    assert [rejection.code for rejection in find_sites(model)[1]] == ["rank"]


def test_fused_names_of_local_functions_are_not_fused_operators() -> None:
    model = copy.deepcopy(pattern("scope-function"))
    model.functions[0].name = "SelfAttention"
    model.graph.node[0].op_type = "SelfAttention"
    sites, rejected = find_sites(model)
    assert (len(sites), rejected) == (1, ())


def broken_models() -> dict[str, onnx.ModelProto]:
    cyclic = copy.deepcopy(pattern("11-vit"))
    cyclic.graph.node[0].input[0] = "out"
    undefined = copy.deepcopy(pattern("11-vit"))
    undefined.graph.node[-1].input[1] = "nowhere"
    twice = copy.deepcopy(pattern("11-vit"))
    twice.graph.node.append(twice.graph.node[-2])
    unsorted = copy.deepcopy(pattern("11-vit"))
    nodes = list(unsorted.graph.node)[::-1]
    del unsorted.graph.node[:]
    unsorted.graph.node.extend(nodes)
    bare = copy.deepcopy(pattern("11-vit"))
    softmax = next(node for node in bare.graph.node if node.op_type == "Softmax")
    del softmax.input[:]
    axis = copy.deepcopy(pattern("11-vit"))
    next(node for node in axis.graph.node if node.op_type == "Softmax").attribute[0].i = 9
    recursive = copy.deepcopy(pattern("scope-function"))
    recursive.functions[0].node.add(op_type="attend", domain="local", input=["a", "b", "c"], output=["again"])
    return {
        "empty": onnx.ModelProto(),
        "no-opset": onnx.ModelProto(graph=pattern("11-vit").graph),
        "cyclic": cyclic,
        "undefined-value": undefined,
        "value-defined-twice": twice,
        "unsorted": unsorted,
        "softmax-without-input": bare,
        "axis-out-of-range": axis,
        "recursive-function": recursive,
    }


@pytest.mark.parametrize("name", broken_models())
def test_broken_graphs_get_an_answer(name: str) -> None:
    model = broken_models()[name]
    softmaxes = sum(node.op_type == "Softmax" for body in (model.graph, *model.functions) for node in body.node)
    sites, rejected = find_sites(model)
    assert len(sites) + len(rejected) == softmaxes
    assert all(rejection.code in REASONS for rejection in rejected)


@pytest.mark.slow
def test_time_to_find_grows_with_the_number_of_nodes() -> None:
    small, large = stacked(50), stacked(500)
    assert len(large.graph.node) > 10_000
    seconds = {}
    for model, times in ((small, 3), (large, 1)):
        took = []
        for _ in range(times):
            start = time.process_time()
            sites, rejected = find_sites(model)
            took.append(time.process_time() - start)
        seconds[len(sites)] = min(took)
        assert not rejected
        assert all(site.self_attention and site.key_mask == "attention_mask" for site in sites)
    assert list(seconds) == [50, 500]
    assert seconds[500] < 25 * seconds[50]  # ten times the nodes: linear with room for noise, far below quadratic
