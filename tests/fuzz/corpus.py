"""Small files to start from, made here: each form that readers treat in a way of its own."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from atpatch_onnx import patch_model
from atpatch_onnx.hotfix.file import Hotfix, HotfixSite
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io
from rewriters.plan import (
    BenignPair,
    Cnn,
    Conv,
    Dense,
    Detector,
    NormDistance,
    OneClass,
    OnnxGraph,
    Profile,
    SitePlan,
    Static,
    Statistic,
    ValueNorms,
)

from ..ab.logs import pair, patched, row
from ..tiny import attention_model

__all__ = ["data_sets", "hotfixes", "logs", "models"]

_ATTEND = "t = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul ({0}, t) p = Softmax <axis = -1> (s) {1} = MatMul (p, v)"
_TENSORS = ", ".join(f"float[b,2,s,4] {name}" for name in "qkv")
_CALLS = f"""
<ir_version: 9, opset_import: ["" : 18, "local" : 1]>
calls ({_TENSORS}, bool go) => (float[b,2,s,4] out)
{{
    a = local.Attend (q, k, v)
    out = If (go) <
        then_branch = yes () => (float[b,2,s,4] y) {{ {_ATTEND.format("a", "y")} }},
        else_branch = no () => (float[b,2,s,4] n) {{ n = local.Attend (a, v, k) }}
    >
}}
<domain: "local", opset_import: ["" : 18]> Attend (q, k, v) => (o) {{ {_ATTEND.format("q", "o")} }}
"""
_FUSED = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
fused (float[b,s,8] q, float[b,s,8] k, float[b,s,8] v) => (float[b,s,8] out)
{ out = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v) }
"""
_QUANTIZED = """
<ir_version: 8, opset_import: ["" : 17]>
quantized (float[b,2,s,4] q, float[b,2,4,s] k, float[b,2,s,4] v) => (float[b,2,s,4] out)
<float scale = {0.01}, uint8 zero = {128}>
{
    s = MatMul (q, k) p = Softmax <axis = -1> (s)
    pq = QuantizeLinear (p, scale, zero) pd = DequantizeLinear (pq, scale, zero)
    vq = QuantizeLinear (v, scale, zero) vd = DequantizeLinear (vq, scale, zero)
    out = MatMul (pd, vd)
}
"""


@cache
def models() -> dict[str, onnx.ModelProto]:
    """Name → model; "external" keeps its weights in `weights.data` (zeros)."""
    tiny = attention_model()
    typed = attention_model()
    for tensor in typed.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, array.shape, array.ravel()))
    external = attention_model()
    for tensor in external.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.dims:
            tensor.external_data.add(key="location", value="weights.data")
            tensor.external_data.add(key="length", value=str(len(tensor.raw_data)))
            tensor.data_location = TensorProto.EXTERNAL
            tensor.ClearField("raw_data")
    reversed_nodes = attention_model()
    nodes = list(reversed_nodes.graph.node)[::-1]
    del reversed_nodes.graph.node[:]
    reversed_nodes.graph.node.extend(nodes)
    return {
        "tiny": tiny,
        "two layers": attention_model(layers=2),
        "typed fields": typed,
        "external": external,
        "unsorted": reversed_nodes,
        "calls": parser.parse_model(_CALLS),
        "fused": parser.parse_model(_FUSED),
        "quantized": parser.parse_model(_QUANTIZED),
        "patched": patch_model(tiny, detector="statistic"),
        "patched calls": patch_model(parser.parse_model(_CALLS), detector="static", columns=(1,), gating="none"),
        "patched, watched": patch_model(tiny, detector="statistic", telemetry=True, freeze=True),
    }


def _detectors() -> dict[str, Detector]:
    def floats(*shape: int) -> Any:
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    graph = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> d (float[b,h,q,k] x) => (float[b,k] y) '
        "{ y = ReduceMax <axes = [1, 2], keepdims = 0> (x) }"
    )
    return {
        "static": Static((1, 2)),
        "statistic": Statistic(exempt=(0, -2), floor=0.1),
        "profile": Profile(
            (Dense(floats(4, 3), floats(3)), Dense(floats(3, 1), floats(1))),
            floats(4),
            np.ones(4, np.float32),
            probes=(0,),
        ),
        "oneclass": OneClass(
            floats(4),
            floats(4, 2),
            True,
            0.5,
            probes=(0,),
            every=2,
            norms=NormDistance(ValueNorms(floats(2, 4, 4)), floats(2), floats(2, 2), True, 0.5),
        ),
        "cnn": Cnn((Conv(floats(2, 1, 3, 3), floats(2)),), (Dense(floats(50, 5), floats(5)),)),
        "onnx": OnnxGraph(graph.SerializeToString()),
    }


@cache
def hotfixes() -> dict[str, Hotfix]:
    """Detector kind → a hotfix for the model "two layers"."""
    model = models()["two layers"]
    sites, _ = find_sites(model)
    pairs = (BenignPair(np.float32([0.5, 2.0]), np.ones((2, 1, 4), np.float32)), BenignPair())
    found = {}
    for number, (kind, detector) in enumerate(_detectors().items()):
        plans = (SitePlan(detector, pairs[number % 2]), SitePlan(Static()))
        entries = tuple(
            HotfixSite(site.id, layer, site.heads, site.fingerprint, plan)
            for layer, (site, plan) in enumerate(zip(sites, plans, strict=True))
        )
        found[kind] = Hotfix(
            entries,
            0.5,
            model_io.weights_digest(model, "."),
            level=0.5,
            companion=0.5,
            evidence={"report": {"k": 1}},
            seeds={"fit": 1},
        )
    return found


@cache
def data_sets() -> dict[str, dict[str, np.ndarray]]:
    """Name → arrays for the model "tiny", as `fit --debug` and `compare` take them."""
    rows, rng = 24, np.random.default_rng(0)
    x = rng.standard_normal((rows, 5, 8)).astype(np.float32)
    columns = np.zeros((rows, 5), bool)
    columns[rows // 2 :, 2] = True
    partner = np.concatenate([np.full(rows // 2, -1), np.arange(rows // 2)])
    debug = {"x": x, "labels": np.arange(rows) % 3, "columns": columns, "pair": partner, "target": np.array(1)}
    return {
        "clean": {"x": x, "labels": np.arange(rows) % 3},
        "debug": debug,
        "triggered": {"x": x, "target": np.array(1), "clean_row": np.arange(rows)},
        "flips": {"x": x, "group": np.arange(rows) // 2},
    }


@cache
def logs() -> list[dict[str, Any]]:
    """Rows of a decision log: an experiment, a shadow phase, and what else a server writes."""
    rows = [row(n) if n % 2 else patched(n) for n in range(20)] + [pair(n, n % 2, 0, revision=2) for n in range(20, 40)]
    switch = {
        key: rows[0][key] for key in ("schema", "time", "unix", "experiment", "revision", "salt", "mode", "weight")
    }
    return [*rows, {**switch, "event": "switch", "on": False, "source": "admin"}, {**switch, "event": "unknown"}]
