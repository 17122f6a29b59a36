"""BERT and ViT, quantized by onnxruntime's own tools in every format, and what onnxruntime saves of it after
optimization.

A silent patch is bit-identical with and without optimization, since no kernel on integers is lost; a firing one agrees
with the oracle to within the rounding of the model's own quantization.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_static

from rewriters.editing.patcher import patch, unpatch
from rewriters.errors import AtpatchError
from rewriters.finding.finder import find_sites
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static, Statistic
from rewriters.sites import Site
from tests import oracle
from tests.exports import EXPORTERS, export_model

from ..graphs import session
from ..patterns import QK, Pattern, model as hand_made
from ..quantizing import Batches, optimized, quantized
from ..running import canonical, run_all, same_plan, with_outputs

FORMATS = {
    "qdq": "softmax+qdq",
    "qdq8": "softmax+qdq",
    "qoperator": "qlinear-softmax+qlinear",
    "dynamic": "softmax+integer",
    "qdq-saved": "qlinear-softmax+qlinear",
    "dynamic-saved": "softmax+integer",
}
CASES = [(kind, family, exporter) for kind in FORMATS for family in ("bert", "vit") for exporter in EXPORTERS]
each_case = pytest.mark.parametrize(("kind", "family", "exporter"), CASES, ids=["-".join(case) for case in CASES])
# The casts that TorchScript leaves behind the Softmax got a Q/DQ pair on either side; see `subgraphs.between_pairs`.
TWO_PAIRS = ("qdq", "vit", "torchscript")
INTEGER_KERNELS = (
    "QLinearMatMul",
    "QLinearSoftmax",
    "QLinearAdd",
    "QLinearMul",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
)
PAIR = BenignPair(np.array([0.5], np.float32))


def integer_kernels(model: onnx.ModelProto) -> Counter[str]:
    """Operators on integers of an optimized model, inside branches too."""
    return Counter(node.op_type for node in _nested(optimized(model).graph.node) if node.op_type in INTEGER_KERNELS)


def _nested(nodes: object) -> Iterator[onnx.NodeProto]:
    for node in nodes:  # type: ignore[attr-defined]
        yield node
        for attribute in node.attribute:
            yield from _nested(attribute.g.node)


@each_case
def test_sites(kind: str, family: str, exporter: str) -> None:
    sites, rejected = find_sites(quantized(kind, family, exporter))
    assert not rejected
    assert [site.form for site in sites] == [FORMATS[kind]] * 2
    for site in sites:
        mask = "attention_mask" if family == "bert" else None
        assert (site.heads, site.head_dim, site.self_attention, site.key_mask) == (4, 8, True, mask)


@each_case
def test_silent_patch_is_bit_identical_and_undone_exactly(kind: str, family: str, exporter: str) -> None:
    model, export = quantized(kind, family, exporter), export_model(family, exporter)
    sites, _ = find_sites(model)
    for gating in ("if", "none"):
        patched = patch(model, same_plan(sites, SitePlan(Static()), gating=gating), sites)
        onnx.checker.check_model(patched)
        for padded in (False, True):
            feeds = export.feeds(3, padded)
            for optimize in (False, True):
                before, after = run_all(model, feeds, optimize=optimize), run_all(patched, feeds, optimize=optimize)
                for name, array in before.items():
                    assert array.tobytes() == after[name].tobytes(), (gating, padded, optimize, name)
        assert unpatch(patched) == model


@each_case
def test_no_kernel_on_integers_is_lost(kind: str, family: str, exporter: str) -> None:
    model = quantized(kind, family, exporter)
    sites, _ = find_sites(model)
    before = integer_kernels(model)
    assert sum(before.values()) >= (12 if kind == "qdq8" else 16)
    for gating, detector in itertools.product(("if", "none"), (Static((1,)), Statistic())):
        after = integer_kernels(patch(model, same_plan(sites, SitePlan(detector), gating=gating), sites))
        assert after - before == (Counter(QLinearSoftmax=2) if (kind, family, exporter) == TWO_PAIRS else Counter())
        assert not before - after


@each_case
@pytest.mark.parametrize("gating", ["if", "none"])
def test_firing_patch_agrees_with_the_oracle_within_rounding(
    kind: str, family: str, exporter: str, gating: str
) -> None:
    model, export = quantized(kind, family, exporter), export_model(family, exporter)
    sites, _ = find_sites(model)
    feeds = export.feeds(3, padded=True)
    plan = same_plan(sites, SitePlan(Static((1, 3)), PAIR), gating=gating, telemetry=True)
    ends = {site.id: End.of(model, site) for site in sites}
    patched = patch(model, plan, sites)
    for site in sites:
        patched = with_outputs(
            patched, [site.probabilities], site.quantizer_dtype if site.map_scale else onnx.TensorProto.FLOAT
        )
        patched = with_outputs(
            patched, [site.values], site.quantizer_dtype if site.values_scale else onnx.TensorProto.FLOAT
        )
        patched = with_outputs(patched, [ends[site.id].value], onnx.TensorProto.FLOAT if site.quantizer else site.dtype)
    # Unoptimized: else the Softmax itself runs on integers, and rounds on its own.
    got = run_all(patched, feeds, optimize=False)
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for site in sites:
        end = ends[site.id]
        a = canonical(site, dequantized(got[site.probabilities], site.map_scale, scales), site.layout.probabilities)
        v = canonical(site, dequantized(got[site.values], site.values_scale, scales), site.layout.values)
        mask = got[f"atpatch_columns/{site.id}"]
        valid = feeds["attention_mask"] == 1 if site.key_mask else (a > 1e-30).any((1, 2))
        np.testing.assert_array_equal(mask, np.isin(np.arange(mask.shape[1]), [1, 3]) & valid)
        want = oracle.joint(a, v, mask, valid, PAIR)
        out = canonical(site, end.read(got[end.value]), site.layout.output)
        rounding = 0.51 * end.step
        low, high = end.bounds
        # beyond what the product was calibrated for, it saturates
        inside = (want > low + rounding) & (want < high - rounding)
        assert inside.mean() > 0.95
        error = np.where(inside, np.abs(out - want), 0)
        assert (error <= 1e-5 + rounding).all(), error.max()


def dequantized(array: np.ndarray, scale: tuple[str, str] | None, scales: dict[str, np.ndarray]) -> np.ndarray:
    if scale is None:
        return array.astype(np.float64)
    zero = float(scales[scale[1]]) if scale[1] else 0.0
    return (array.astype(np.float64) - zero) * float(scales[scale[0]])


@dataclass(frozen=True)
class End:
    """Where a patched product can be read, the steps that the model's quantization rounds it to, and the range these
    can express.

    `quantized`: the value is one of integers.
    """

    value: str
    step: float = 0.0
    zero: float = 0.0
    quantized: bool = False
    limits: tuple[int, int] = (0, 255)

    def read(self, array: np.ndarray) -> np.ndarray:
        return (array.astype(np.float64) - self.zero) * self.step if self.quantized else array

    @property
    def bounds(self) -> tuple[float, float]:
        return tuple((limit - self.zero) * self.step for limit in self.limits) if self.step else (-np.inf, np.inf)

    @classmethod
    def of(cls, model: onnx.ModelProto, site: Site) -> End:
        scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        maker = {output: node for node in model.graph.node for output in node.output}
        if site.form.endswith("+qlinear"):
            scale, zero = maker[site.product].input[6:8]
            return cls(site.product, float(scales[scale]), float(scales[zero]), True)
        if site.quantizer is None:
            return cls(site.product)
        (quantize,) = (node for node in model.graph.node if site.product in node.input)
        (dequantize,) = (node for node in model.graph.node if quantize.output[0] in node.input)
        step, zero = float(scales[quantize.input[1]]), float(scales[quantize.input[2]])
        limits = np.iinfo(scales[quantize.input[2]].dtype)
        return cls(dequantize.output[0], step, zero, limits=(limits.min, limits.max))


@pytest.mark.parametrize(
    ("kind", "exporter"), [(kind, exporter) for kind, family, exporter in CASES if family == "vit"]
)
def test_unflagged_samples_of_a_mixed_batch_are_bit_identical(kind: str, exporter: str) -> None:
    """At the flagged site itself: what follows in a dynamically quantized model takes one scale from the whole batch.

    ViT alone, as the mask of BERT leaves scores no steps when it is quantized with them: its maps come out flat.
    """
    model, export = quantized(kind, "vit", exporter), export_model("vit", exporter)
    sites, _ = find_sites(model)
    first, feeds = sites[0], export.feeds(4, padded=True)
    end = End.of(model, first)
    kind_ = onnx.TensorProto.FLOAT if first.quantizer else first.dtype
    before = run_all(with_outputs(model, [end.value], kind_), feeds)[end.value]
    plan = PatchPlan({first.id: SitePlan(Statistic(exempt=()), PAIR)}, telemetry=True)
    live = session(with_outputs(patch(model, plan, sites), [end.value], kind_))
    for threshold in np.linspace(0.2, 8, 200):
        flags, after = live.run(
            ["atpatch_flagged", end.value], {**feeds, "atpatch_threshold": np.array(threshold, np.float32)}
        )
        if 0 < flags[:, 0].sum() < len(flags):
            break
    else:
        raise AssertionError("no threshold splits this batch")
    for sample, hit in enumerate(flags[:, 0]):
        assert (before[sample].tobytes() == after[sample].tobytes()) is not bool(hit), (sample, threshold)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "deberta-v2", "swin", "whisper"])
def test_silence_between_pairs_in_other_families(family: str, exporter: str) -> None:
    """T5 is missing: quantized, it computes indices that it cannot look up."""
    model, export = quantized("qdq", family, exporter), export_model(family, exporter)
    sites, rejected = find_sites(model)
    assert len(sites) == export.expected_sites and not rejected
    assert {site.form for site in sites} == {"softmax+qdq"}
    kernels = integer_kernels(model)
    feeds = export.feeds(2, padded=True)
    for gating in ("if", "none"):
        patched = patch(model, same_plan(sites, SitePlan(Static()), gating=gating), sites)
        assert not kernels - integer_kernels(patched)
        for optimize in (False, True):
            before, after = run_all(model, feeds, optimize=optimize), run_all(patched, feeds, optimize=optimize)
            for name, array in before.items():
                assert array.tobytes() == after[name].tobytes(), (gating, optimize, name)


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "as-it-is"])
@pytest.mark.parametrize("kind", FORMATS)
def test_two_passes(kind: str, optimize: bool) -> None:
    """The second run reads the same quantized factors; where no column is flagged nothing changes by a bit."""
    model, export = quantized(kind, "vit", "dynamo"), export_model("vit", "dynamo")
    sites, _ = find_sites(model)
    group, feeds = tuple(site.id for site in sites), export.feeds(3)
    before = run_all(model, feeds, optimize=optimize)["last_hidden_state"]
    silent, firing = (
        run_all(
            patch(model, same_plan(sites, detector, passes="two", groups=(group,)), sites), feeds, optimize=optimize
        )
        for detector in (SitePlan(Static()), SitePlan(Static((1, 3)), PAIR))
    )
    assert silent["last_hidden_state"].tobytes() == before.tobytes()
    once = run_all(patch(model, same_plan(sites, SitePlan(Static((1, 3)), PAIR)), sites), feeds, optimize=False)[
        "last_hidden_state"
    ]
    assert not np.allclose(firing["last_hidden_state"], before, atol=0.1)
    assert np.abs(firing["last_hidden_state"] - once).mean() < 0.05 * np.abs(before).mean()


def test_two_passes_are_refused_for_weights_that_onnxruntime_joins_with_their_product() -> None:
    """MatMulNBits, of a dequantized weight that nothing else reads: here with activations of 16 bits, which no kernel
    takes.
    """
    export = export_model("vit", "dynamo")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_static(
            export.path,
            path,
            Batches(export),
            activation_type=QuantType.QUInt16,
            extra_options={"UseQDQContribOps": True},
        )
        model = onnx.load(path)
    assert any(node.op_type == "MatMulNBits" for node in optimized(model).graph.node)
    sites, _ = find_sites(model)
    before = run_all(model, export.feeds(3))["last_hidden_state"]
    for gating in ("if", "none"):
        silent = patch(model, same_plan(sites, SitePlan(Static()), gating=gating), sites)
        assert run_all(silent, export.feeds(3))["last_hidden_state"].tobytes() == before.tobytes()
    with pytest.raises(AtpatchError, match="ATP023: a second run") as caught:
        patch(
            model, same_plan(sites, SitePlan(Static()), passes="two", groups=(tuple(site.id for site in sites),)), sites
        )
    assert "--passes one" in caught.value.fix


@pytest.mark.parametrize("kind", ["qdq", "qdq8"])
def test_two_passes_without_a_branch_are_refused_between_pairs(kind: str) -> None:
    model = quantized(kind, "vit", "dynamo")
    sites, _ = find_sites(model)
    plan = same_plan(sites, SitePlan(Static()), gating="none", passes="two", groups=(tuple(site.id for site in sites),))
    with pytest.raises(AtpatchError, match="ATP023: without a branch") as caught:
        patch(model, plan, sites)
    assert "--gating if" in caught.value.fix


def test_scores_times_one_are_dequantized_scores() -> None:
    """onnxruntime takes such a product out, and the Softmax behind it runs on integers: Whisper has a scale of 1."""
    step, zero, share, nothing = np.float32(1 / 32), np.int8(0), np.float32(1 / 256), np.int8(-128)
    graph = hand_made(
        f"{QK} a_q = QuantizeLinear(qk, sc, zp) a = DequantizeLinear(a_q, sc, zp) m = Mul(a, one) s = Softmax<axis ="
        " -1>(m) p_q = QuantizeLinear(s, share, nothing) p = DequantizeLinear(p_q, share, nothing) v_q ="
        " QuantizeLinear(v, sc, zp) v_d = DequantizeLinear(v_q, sc, zp) o = MatMul(p, v_d) o_q = QuantizeLinear(o, sc,"
        " zp) out = DequantizeLinear(o_q, sc, zp)",
        "float[B,3,S,D] q, float[B,3,T,D] k, float[B,3,T,D] v",
        sc=step,
        zp=zero,
        share=share,
        nothing=nothing,
        one=np.float32(1),
    )
    sites, _ = find_sites(graph)
    before = integer_kernels(graph)
    assert before["QLinearSoftmax"] == before["QLinearMatMul"] == 1
    feeds = Pattern("scaled-by-one", graph).feeds()
    for gating in ("if", "none"):
        silent = patch(graph, same_plan(sites, SitePlan(Static()), gating=gating), sites)
        assert not before - integer_kernels(silent)
        assert run_all(silent, feeds)["out"].tobytes() == run_all(graph, feeds)["out"].tobytes()


def test_a_map_between_pairs_that_several_read() -> None:
    """Two products and an output of the graph read one dequantized map: each product is patched for itself, the output
    stays.
    """
    step, zero, share, nothing = np.float32(1 / 32), np.uint8(128), np.float32(1 / 255), np.uint8(0)
    graph = hand_made(
        f"{QK} a_q = QuantizeLinear(qk, sc, zp) a = DequantizeLinear(a_q, sc, zp) s = Softmax<axis = -1>(a) p_q ="
        " QuantizeLinear(s, share, nothing) p = DequantizeLinear(p_q, share, nothing) v_q = QuantizeLinear(v, sc, zp)"
        " v_d = DequantizeLinear(v_q, sc, zp) w_q = QuantizeLinear(w, sc, zp) w_d = DequantizeLinear(w_q, sc, zp) one"
        " = MatMul(p, v_d) two = MatMul(p, w_d)",
        "float[B,3,S,D] q, float[B,3,T,D] k, float[B,3,T,D] v, float[B,3,T,D] w",
        "float[B,3,S,T] p, float[B,3,S,D] one, float[B,3,S,D] two",
        sc=step,
        zp=zero,
        share=share,
        nothing=nothing,
    )
    feeds = Pattern("several-readers", graph).feeds()
    sites, _ = find_sites(graph)
    assert [site.product for site in sites] == ["one", "two"]
    before = run_all(graph, feeds)
    for gating in ("if", "none"):
        silent = patch(graph, same_plan(sites, SitePlan(Static()), gating=gating), sites)
        firing = patch(graph, same_plan(sites[:1], SitePlan(Static((1,)), PAIR), gating=gating), sites)
        onnx.checker.check_model(silent)
        after, mended = run_all(silent, feeds), run_all(firing, feeds)
        for name, array in before.items():
            assert array.tobytes() == after[name].tobytes(), name
            assert (array.tobytes() == mended[name].tobytes()) is (name != "one"), name
        assert unpatch(silent) == graph and unpatch(firing) == graph
