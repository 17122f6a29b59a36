"""Every detector and form of a patch loads and answers at the oldest opset as at a later one: what is inserted asks no
operator for a type that its version does not take.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.model.io import MIN_OPSET
from rewriters.plan import BenignPair, Dense, Detector, OneClass, PatchPlan, Profile, SitePlan, Statistic

WIDTH, CLASSES, IDS = 8, 3, 20
LATER = 17


def classifier(opset: int) -> onnx.ModelProto:
    """Two layers of attention with a padding mask, one head each; the class is read at the first token."""
    layer = """
        q{0} = MatMul(x{0}, wq{0}) k{0} = MatMul(x{0}, wk{0}) v{0} = MatMul(x{0}, wv{0})
        t{0} = Transpose<perm = [0, 2, 1]>(k{0}) r{0} = MatMul(q{0}, t{0}) s{0} = Add(r{0}, bias)
        p{0} = Softmax<axis = 2>(s{0}) o{0} = MatMul(p{0}, v{0}) x{1} = Add(x{0}, o{0})"""
    axes = ("Unsqueeze<axes = [1]>(hidden)", "") if opset < 13 else ("Unsqueeze(hidden, one)", "int64[1] one = {1}")
    text = f"""
        <ir_version: 7, opset_import: ["" : {opset}]>
        g (int64[b, s] ids, int64[b, s] mask) => (float[b, {CLASSES}] logits) <{axes[1]}> {{
        x0 = Gather(table, ids) real = Cast<to = 1>(mask) gap = Sub(unit, real) hidden = Mul(gap, never)
        bias = {axes[0]} {layer.format(0, 1)} {layer.format(1, 2)}
        first = Gather<axis = 1>(x2, nought) logits = MatMul(first, head) }}"""
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    arrays = {f"w{part}{number}": rng.normal(size=(WIDTH, WIDTH)) for part in "qkv" for number in (0, 1)}
    arrays |= {"table": rng.normal(size=(IDS, WIDTH)), "head": rng.normal(size=(WIDTH, CLASSES))}
    arrays |= {"unit": np.array(1.0), "never": np.array(-1e4)}
    model.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items())
    model.graph.initializer.append(numpy_helper.from_array(np.array(0), "nought"))
    onnx.checker.check_model(model, full_check=True)
    return model


def detectors() -> dict[str, Detector]:
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    layers = (Dense(drawn(2, 8), drawn(8)), Dense(drawn(8, 1), drawn(1)))
    return {
        "statistic": Statistic(),
        "profile": Profile(layers, drawn(2), np.abs(drawn(2)) + 1),
        "oneclass": OneClass(drawn(2), drawn(2, 2), True, 3.0, rank=2, exempt=(0, -1)),
        "oneclass of every column": OneClass(drawn(2), drawn(2, 2), True, 3.0, rank=2),
    }


TWO = [
    {"passes": "two", "joint": joint, **more}
    for joint, more in [
        ("any", {}),
        ("sum", {"most": 2}),
        ("sum", {"accept": "flip", "wider": 3, "margin": 0.01}),
    ]
]
FORMS = [
    {**form, "gating": gating, "telemetry": True}
    for form, gating in itertools.product([{"passes": "one"}, *TWO], ["if", "none"])
    if not (gating == "none" and "wider" in form)
]


def answers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    feeds = {"ids": rng.integers(0, IDS, (6, 7)), "mask": (np.arange(7) < [[7], [7], [5], [4], [6], [7]]).astype(int)}
    live = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in live.get_outputs()]
    return dict(zip(names, live.run(names, feeds), strict=True))


def patched(opset: int, detector: Detector, form: dict[str, Any], threshold: float) -> onnx.ModelProto:
    model = classifier(opset)
    sites, rejected = find_sites(model)
    assert len(sites) == 2 and not rejected
    pair = BenignPair(np.full(1, 0.5, np.float32), np.full((1, 1, WIDTH), 0.1, np.float32))
    plan = PatchPlan(
        {site.id: SitePlan(detector, pair) for site in sites},
        groups=(tuple(site.id for site in sites),),
        threshold=threshold,
        **form,
    )
    return patch(model, plan, sites)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
@pytest.mark.parametrize("kind", detectors())
def test_the_oldest_opset_answers_as_a_later_one(kind: str, form: dict[str, Any]) -> None:
    threshold = {"statistic": 1.5, "profile": 0.01}.get(kind, 0.0)
    old, new = (answers(patched(opset, detectors()[kind], form, threshold)) for opset in (MIN_OPSET, LATER))
    assert old["atpatch_flagged"].any(), "nothing was flagged, so nothing was tried"
    for name, expected in new.items():
        np.testing.assert_allclose(old[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)
    silent = answers(patched(MIN_OPSET, detectors()[kind], form, 1e9))
    np.testing.assert_array_equal(silent["logits"], answers(classifier(MIN_OPSET))["logits"])
