"""Maps that no single Softmax makes: named wherever they are, never seen where there is none, and patched in one pass
and in two.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx.cli.chain import picture
from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import REASONS, find_sites, trace_sites
from rewriters.plan import BenignPair, SitePlan, Static, Statistic
from rewriters.sites import MAP_FORMS, Site
from tests import oracle

from ..layers import LAYERS
from ..lowering.factors import factors, four, one_width, outputs, redistributed
from ..maps import MAPS
from ..patterns import MASK4, Q4, QK, Pattern, model, scalar
from ..running import same_plan, with_outputs

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"
PAIR = BenignPair(np.array([0.5], np.float32))
COLUMNS = (1, 3)

each_layer = pytest.mark.parametrize("pattern", LAYERS, ids=[pattern.id for pattern in LAYERS])
TWO_PASSES = [
    p
    for p in MAPS
    if p.sites
    and p.model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "B"
    and p.id != "32-divided-einsum"
]


@each_layer
def test_a_layer_is_no_map_and_goes_without_a_word(pattern: Pattern) -> None:
    sites, rejected = find_sites(pattern.model)
    assert [site.form for site in sites] == [want.form for want in pattern.sites]
    assert not rejected


def test_enough_kinds_of_layers_are_looked_at() -> None:
    assert len(LAYERS) >= 35
    seen = {node.op_type for pattern in LAYERS for node in pattern.model.graph.node}
    assert {"Relu", "Sigmoid", "HardSigmoid", "Clip", "Exp", "LogSoftmax", "ReduceLogSumExp", "Conv", "MatMul"} <= seen


def test_every_form_of_map_has_a_site_in_the_tables() -> None:
    forms = {site.form.split("+")[0] for pattern in MAPS for site in find_sites(pattern.model)[0]}
    assert forms >= {*MAP_FORMS} - {"softmax-flat", "bias-softmax", "qlinear-softmax"}


@pytest.mark.parametrize("pattern", TWO_PASSES, ids=[p.id for p in TWO_PASSES])
def test_two_passes_are_silent_without_a_flag_and_agree_with_the_oracle_when_they_fire(pattern: Pattern) -> None:
    sites, _ = find_sites(pattern.model)
    feeds = pattern.feeds()
    silent = patch(
        pattern.model, same_plan(sites, SitePlan(Static()), passes="two", groups=tuple((s.id,) for s in sites)), sites
    )
    before = outputs(pattern.model, feeds)["out"]
    assert outputs(silent, feeds)["out"].tobytes() == before.tobytes()
    assert unpatch(silent) == pattern.model
    plan = same_plan(
        sites, SitePlan(Static(COLUMNS), PAIR), passes="two", groups=tuple((s.id,) for s in sites), telemetry=True
    )
    (site,) = sites
    patched = patch(pattern.model, plan, sites)
    got = outputs(with_outputs(patched, [site.product], site.dtype), feeds, optimize=False)
    a, v = factors(pattern.model, sites, feeds)[site.id]
    mask = got[f"atpatch_columns/{site.id}"]
    assert mask.any()
    want = redistributed(pattern.model, site, feeds, a, v, mask)
    out = four(site, one_width(site, got[site.product]), None)
    np.testing.assert_allclose(out, want, atol=1e-5 * max(1.0, np.abs(want).max()), rtol=0)


def test_detectors_read_the_divided_map() -> None:
    """(exp(s) v) / Σ exp(s): what draws attention is exp(s) / Σ exp(s), and a row of large scores is no more than any
    other.
    """
    pattern = next(p for p in MAPS if p.id == "32-divided")
    sites, _ = find_sites(pattern.model)
    feeds = pattern.feeds()
    a, _ = factors(pattern.model, sites, feeds)[sites[0].id]
    np.testing.assert_allclose(a.sum(-1), 1, atol=1e-5)
    detector = Statistic(exempt=())
    score = oracle.statistic(a, None, detector, False)
    threshold = np.sort(score.ravel())[-2:].mean()
    patched = patch(pattern.model, same_plan(sites, SitePlan(detector, PAIR), telemetry=True), sites)
    got = outputs(patched, {**feeds, "atpatch_threshold": np.array(threshold, np.float32)})
    np.testing.assert_array_equal(got[f"atpatch_columns/{sites[0].id}"], score > threshold)


def test_what_moves_columns_claims_nothing_about_tokens() -> None:
    """A sink in front shifts every column by one, so row i and column i are two tokens; a mask of the keys would be a
    column short.
    """
    for name, expected in {
        "39-padded-sink-of-one-sequence": True,
        "39-sink-with-a-value-of-one-sequence": False,
    }.items():
        (site,), _ = find_sites(next(p.model for p in MAPS if p.id == name))
        assert site.self_attention is expected, name
        assert site.key_mask == ("attention_mask" if expected else None), name


@pytest.mark.parametrize("masked", [False, True])
def test_a_row_that_gives_all_to_a_flagged_column_of_a_sparse_map(masked: bool) -> None:
    """Its mass goes evenly to the others where none of them can be masked.

    Behind a mask a zero says nothing, and the row stays.
    """
    mask = "a = Add(qk, mask)" if masked else "a = Mul(qk, one)"
    graph = model(f"{QK} {mask} p = Relu(a) out = MatMul(p, v)", f"{Q4}, {MASK4}" if masked else Q4, one=scalar(1))
    (site,), _ = find_sites(graph)
    assert site.unmasked is not masked
    feeds = {name: np.zeros((1, 3, 2, 4), np.float32) for name in "qkv"} | {"v": np.ones((1, 3, 2, 4), np.float32)}
    feeds["q"][..., 0] = 1
    feeds["k"][:, :, 0, 0], feeds["k"][:, :, 1, 0], feeds["v"][:, :, 0] = 3, -1, 5
    feeds |= {"mask": np.zeros((1, 1, 2, 2), np.float32)} if masked else {}
    patched = patch(graph, same_plan((site,), SitePlan(Static((0,)), BenignPair(np.array([0.0], np.float32)))), (site,))
    np.testing.assert_allclose(outputs(patched, feeds)["out"], 15 if masked else 3)


@pytest.mark.parametrize(
    ("code", "scores", "weighing"),
    [
        ("unknown-operator", "s = Identity(qk)", "out = custom.Weigh(p, v)"),
        ("scores-form", "s = custom.Bias(qk)", "out = MatMul(p, v)"),
        ("no-scores", "s = Identity(given)", "out = MatMul(p, v)"),
        ("no-product", "s = Identity(qk)", "c = CumSum(p, axis) out = Sqrt(c)"),
    ],
)
def test_what_is_not_known_is_not_denied(code: str, scores: str, weighing: str) -> None:
    """That there are no scores or no product is said only where the graph is seen to have none."""
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "custom" : 1]> g (float[B,S,D] q, float[B,T,D] k, float[B,T,D] v,'
        " float[B,S,T] given) => (float[B,S,D] out) <int64 axis = {2}> { kt = Transpose<perm = [0,2,1]>(k) qk ="
        f" MatMul(q, kt) {scores} p = Softmax<axis = -1>(s) {weighing} }}"
    )
    sites, (rejection,) = find_sites(graph)
    assert (sites, rejection.code) == ((), code)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("30-log-softmax", "normalizes over axis -1"),
        ("32-divided", "weighs number by number, key columns on axis -1"),
        ("33-sigmoid-rows-are-keys", "weighs number by number, key columns on axis -2"),
        ("35-sparsemax", "normalizes over axis -1"),
        ("50-relu-of-other-tokens", "weighs number by number, key columns on axis -1"),
    ],
)
def test_a_trace_says_how_a_map_is_made(name: str, words: str) -> None:
    (trace,) = trace_sites(next(p.model for p in MAPS if p.id == name)).traces
    assert trace.making == words
    assert any(words in line.plain for line in picture(trace))


def broken(pattern: Pattern, draw: random.Random) -> onnx.ModelProto:
    """A graph of the table with one thing wrong with one of its nodes."""
    graph = copy.deepcopy(pattern.model)
    node = draw.choice(graph.graph.node)
    values = [name for other in graph.graph.node for name in other.output]
    kind = draw.randrange(5)
    if kind == 0 and node.input:
        node.input[draw.randrange(len(node.input))] = draw.choice(values)
    elif kind == 1 and node.input:
        del node.input[draw.randrange(len(node.input)) :]
    elif kind == 2:
        node.op_type = draw.choice(
            [
                "MatMul",
                "Einsum",
                "Transpose",
                "Gather",
                "Concat",
                "Pad",
                "Slice",
                "Squeeze",
                "Sub",
                "QLinearMatMul",
                "Relu",
            ]
        )
    elif kind == 3:
        node.ClearField("attribute")
    for attribute in node.attribute if kind == 4 else ():
        if attribute.ints:
            attribute.ints[0] = draw.choice([-9, 0, 1, 9])
        elif attribute.type == onnx.AttributeProto.STRING:
            attribute.s = draw.choice([b"", b"->", b"ab->b", b"ii,ij->j", b"hnij,rjnhd->rinhd"])
        elif attribute.type == onnx.AttributeProto.INT:
            attribute.i = draw.choice([-9, 0, 1, 9])
    return graph


def test_broken_graphs_get_an_answer() -> None:
    draw = random.Random(0)
    for pattern in [*MAPS, *LAYERS] * 6:
        sites, rejected = find_sites(broken(pattern, draw))
        assert all(rejection.code in REASONS for rejection in rejected)
        assert all(site.form.split("+")[0] in MAP_FORMS for site in sites)


def test_samples_come_before_heads() -> None:
    """Tied rows: (heads, samples, queries, keys) in memory, and the alignment's rows are part of the width."""
    (site,), _ = find_sites(next(p.model for p in MAPS if p.id == "37-tied-rows"))
    assert (site.layout.probabilities, site.head_axis, site.heads, site.head_dim) == ((1, 0, 2, 3), -4, 3, None)
    assert site.layout.widths == 2


def before_product(model: onnx.ModelProto, site: Site, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return outputs(with_outputs(model, [site.product]), feeds)[site.product]


CODES = {
    "logsm_ts": ("log-softmax", None),
    "divafter_ts": ("exp+divided", None),
    "diff_ts": ("softmax+signed", None),
    "gat_ts": ("softmax", None),
    "tiedrow_ts": ("softmax", None),
    "convattn_ts": (None, "mixed-map"),
    "c2psa_ts": ("softmax", None),
    "edge_unicode": ("softmax", None),
}
SIZES = {"b": 2, "q": 5, "k": 7, "n": 6, "r": 3, "c": 6, "h": 4, "w": 4, "B": 2, "S": 6}


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
@pytest.mark.parametrize("name", CODES)
def test_shared_cases(name: str) -> None:
    model = onnx.load(CASES / f"{name}.onnx")
    form, code = CODES[name]
    sites, rejected = find_sites(model)
    assert [site.form for site in sites] == ([] if form is None else [form])
    assert [rejection.code for rejection in rejected] == ([] if code is None else [code])
    if form is None:
        return
    rng = np.random.default_rng(0)
    feeds = {
        value.name: (
            rng.normal(size=[dim.dim_value or SIZES[dim.dim_param] for dim in value.type.tensor_type.shape.dim]).astype(
                np.float32
            )
        )
        for value in model.graph.input
    }
    before = outputs(model, feeds)
    (site,) = sites
    a, v = factors(model, sites, feeds)[site.id]
    for gating in ("if", "none"):
        silent = outputs(patch(model, same_plan(sites, SitePlan(Static()), gating=gating), sites), feeds)
        assert all(array.tobytes() == silent[key].tobytes() for key, array in before.items())
        firing = patch(model, same_plan(sites, SitePlan(Static(COLUMNS), PAIR), gating=gating, telemetry=True), sites)
        got = outputs(with_outputs(firing, [site.product]), feeds)
        mask = got[f"atpatch_columns/{site.id}"]
        want = redistributed(model, site, feeds, a, v, mask)
        assert mask[:, COLUMNS].all() and not np.allclose(
            want, four(site, one_width(site, before_product(model, site, feeds)), None), atol=1e-3
        )
        np.testing.assert_allclose(
            four(site, one_width(site, got[site.product]), None), want, atol=2e-5 * max(1, np.abs(want).max())
        )


def test_a_difference_of_maps_with_no_column_left_stays_as_it_is() -> None:
    pattern = next(p for p in MAPS if p.id == "42-differential-official")
    sites, _ = find_sites(pattern.model)
    patched = patch(pattern.model, same_plan(sites, SitePlan(Static(tuple(range(5))), PAIR)), sites)
    assert (
        outputs(patched, pattern.feeds())["out"].tobytes() == outputs(pattern.model, pattern.feeds())["out"].tobytes()
    )
