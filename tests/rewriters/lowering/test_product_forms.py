"""Every form that is not that of a plain export, integer products and maps without a Softmax among them: patched,
against the oracle.

Every pattern of the table whose form is not that of a plain export is patched here: a silent patch is bit-identical, a
firing one agrees with the oracle, and in a batch where some samples are flagged the others come out bit-identical.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.plan import SitePlan, Static, Statistic
from rewriters.sites import Site
from tests import oracle

from ..graphs import session
from ..maps import MAPS
from ..patterns import PATTERNS, Pattern
from ..running import same_plan, with_outputs
from .factors import PAIR, factors, four, one_width, outputs, redistributed, seen

PREFIXES = ("15-", "18-axis-3", "19-", "20-", "23-", "24-", "29-", "fused-matmul-", "two-dimensional-gemm")
FORMS = [*[p for p in PATTERNS if p.id.startswith(PREFIXES) and p.sites], *[p for p in MAPS if p.sites]]
each_form = pytest.mark.parametrize("pattern", FORMS, ids=[p.id for p in FORMS])

BATCHES = [p for p in FORMS if p.id not in ("two-dimensional-gemm", "36-graph-attention-of-one-graph")]


@each_form
def test_silent_patch_is_bit_identical_and_undone_exactly(pattern: Pattern) -> None:
    sites, _ = find_sites(pattern.model)
    for gating in ("if", "none"):
        patched = patch(pattern.model, same_plan(sites, SitePlan(Static()), gating=gating), sites)
        onnx.checker.check_model(patched)
        for optimize in (True, False):
            before, after = (
                outputs(pattern.model, pattern.feeds(), optimize),
                outputs(patched, pattern.feeds(), optimize),
            )
            for name, array in before.items():
                assert array.tobytes() == after[name].tobytes(), (gating, optimize, name)
        assert unpatch(patched) == pattern.model


@each_form
@pytest.mark.parametrize("gating", ["if", "none"])
def test_firing_patch_agrees_with_the_oracle(pattern: Pattern, gating: str) -> None:
    sites, _ = find_sites(pattern.model)
    feeds = pattern.feeds()
    patched = patch(
        pattern.model, same_plan(sites, SitePlan(Static((1, 3)), PAIR), gating=gating, telemetry=True), sites
    )
    products = {site.product: site.dtype for site in sites}
    for name, kind in products.items():
        patched = with_outputs(patched, [name], kind)
    # Optimized, onnxruntime turns Softmax between Q/DQ pairs into QLinearSoftmax, which rounds on its own.
    got = outputs(patched, feeds, optimize=False)
    for site, (a, v) in zip(sites, factors(pattern.model, sites, feeds).values(), strict=True):
        mask = got[f"atpatch_columns/{site.id}"]
        valid = seen(site, a)
        expected = np.zeros_like(mask)
        expected[:, [1, 3]] = True
        np.testing.assert_array_equal(mask, expected & valid)
        want = redistributed(pattern.model, site, feeds, a, v, mask)
        dequantize, steps = requantized(pattern.model, site)
        out = four(site, one_width(site, dequantize(got[site.product])), None)
        half = site.dtype == TensorProto.FLOAT16
        if steps:
            low, high = (dequantize(np.array([bound], got[site.product].dtype)) for bound in (0, 255))
            want = want.clip(low, high)
        np.testing.assert_allclose(
            out, want, atol=(2e-3 if half else 1e-5) * max(1.0, np.abs(want).max()) + 0.51 * steps, rtol=0
        )


def requantized(model: onnx.ModelProto, site: Site) -> tuple:
    """How to read a product that is quantized, and the size of one step (0 for a float product)."""
    if not site.form.endswith("+qlinear"):
        return lambda x: x, 0.0
    node = next(node for node in model.graph.node if site.product in node.output)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scale, zero = float(constants[node.input[6]]), int(constants[node.input[7]])
    return lambda x: (x.astype(np.float64) - zero) * scale, scale


@pytest.mark.parametrize("pattern", BATCHES, ids=[p.id for p in BATCHES])
def test_unflagged_samples_of_a_mixed_batch_are_bit_identical(pattern: Pattern) -> None:
    """Integer products run on the whole batch first, so one scale for all is no obstacle here."""
    sites, _ = find_sites(pattern.model)
    feeds = pattern.feeds()
    first = sites[:1]
    patched = patch(pattern.model, same_plan(first, SitePlan(Statistic(exempt=()), PAIR), telemetry=True), first)
    for name, kind in {site.product: site.dtype for site in first}.items():
        patched = with_outputs(patched, [name], kind)
    before = outputs(with_outputs(pattern.model, [first[0].product], first[0].dtype), feeds)[first[0].product]
    live = session(patched)
    for threshold in np.linspace(-1, 12, 2000):
        flags, after = live.run(
            ["atpatch_flagged", first[0].product], {**feeds, "atpatch_threshold": np.array(threshold, np.float32)}
        )
        flags = flags[:, 0]
        if 0 < flags.sum() < len(flags):
            break
    else:
        raise AssertionError("no threshold splits this batch")
    before, after = (four(first[0], one_width(first[0], array), None) for array in (before, after))
    for sample, hit in enumerate(flags):
        same = before[sample].tobytes() == after[sample].tobytes()
        assert same is not bool(hit), (sample, threshold)


def bias_softmax(inner_broadcast: int, bias: str, axis: int = 3) -> onnx.ModelProto:
    """BERT's mask inside the Softmax, as onnxruntime's CUDA build fuses it."""
    mask = "m = Unsqueeze(attention_mask, one_two) f = Cast<to = 1>(m) i = Sub(unit, f) bias = Mul(i, low)"
    if bias == "full":
        mask = "bias = Identity(given)"
    text = f"""
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    biased (float[B,3,S,4] q, float[B,3,T,4] k, float[B,3,T,4] v, int64[B,T] attention_mask,
    float[B,1,S,T] given) => (float[B,3,S,4] out)
    <int64[2] one_two = {{1, 2}}, float unit = {{1}}, float low = {{-10000.0}}>
    {{
        {mask}
        kt = Transpose <perm = [0, 1, 3, 2]> (k)
        qk = MatMul (q, kt)
        p = com.microsoft.BiasSoftmax <axis = {axis}, is_inner_broadcast = {inner_broadcast}> (qk, bias)
        out = MatMul (p, v)
    }}
    """
    return onnx.parser.parse_model(text)


def without_bias_softmax(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add and Softmax in its place: the CPU provider has no kernel for it."""
    plain = copy.deepcopy(model)
    nodes = []
    for node in plain.graph.node:
        if node.op_type == "BiasSoftmax":
            nodes += [
                helper.make_node("Add", list(node.input), ["biased"]),
                helper.make_node("Softmax", ["biased"], list(node.output), axis=-1),
            ]
        else:
            nodes.append(copy.deepcopy(node))
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    return plain


@pytest.mark.parametrize("bias", ["padding", "full"])
def test_softmax_with_a_bias(bias: str) -> None:
    model = bias_softmax(0, bias)
    (site,), rejected = find_sites(model)
    assert not rejected
    assert (site.form, site.chain, site.heads) == ("bias-softmax", ("MatMul", "BiasSoftmax", "MatMul"), 3)
    assert site.key_mask == ("attention_mask" if bias == "padding" else None)
    rng = np.random.default_rng(0)
    mask = np.ones((2, 7), np.int64)
    mask[1, 5:] = 0
    given = np.where(mask[:, None, None] == 1, 0, -10000.0) + np.zeros((2, 1, 5, 7))
    shapes = {"q": (2, 3, 5, 4), "k": (2, 3, 7, 4), "v": (2, 3, 7, 4)}
    feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    feeds |= {"attention_mask": mask, "given": given.astype(np.float32)}
    before = outputs(without_bias_softmax(model), feeds)["out"]
    silent = patch(model, same_plan((site,), SitePlan(Static())), (site,))
    assert outputs(without_bias_softmax(silent), feeds)["out"].tobytes() == before.tobytes()
    assert unpatch(silent) == model
    firing = without_bias_softmax(
        patch(model, same_plan((site,), SitePlan(Static((1, 6)), PAIR), telemetry=True), (site,))
    )
    got = outputs(with_outputs(firing, ["p"]), feeds)
    flagged = got[f"atpatch_columns/{site.id}"]
    np.testing.assert_array_equal(flagged, np.isin(np.arange(7), [1, 6]) & (mask == 1))
    want = oracle.joint(got["p"], feeds["v"], flagged, mask == 1, PAIR)
    np.testing.assert_allclose(got["out"], want, atol=1e-5)


def test_softmax_with_a_bias_over_several_axes_is_refused() -> None:
    _, (rejection,) = find_sites(bias_softmax(0, "padding", axis=2))
    assert rejection.code == "flatten"
