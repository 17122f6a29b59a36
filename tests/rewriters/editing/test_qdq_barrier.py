"""Dequantized values that are moved and then read inside a gate: without a copy in between onnxruntime aborts the
process.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.plan import BenignPair, SitePlan, Static

from ..patterns import QK, Pattern, ints, model
from ..running import run_all, same_plan

STEP, ZERO = np.float32(1 / 64), np.uint8(128)
SHARE, NOTHING = np.float32(1 / 255), np.uint8(0)

CASES = [
    Pattern(
        "values-transposed",
        model(
            f"{QK} p = Softmax<axis = -1>(qk) v_q = QuantizeLinear(w, sc, zp) v_d = DequantizeLinear(v_q, sc, zp)"
            " v = Transpose<perm = [0,2,1,3]>(v_d) out = MatMul(p, v)",
            "float[B,3,S,D] q, float[B,3,T,D] k, float[B,T,3,D] w",
            sc=STEP,
            zp=ZERO,
        ),
    ),
    Pattern(
        "values-reshaped-and-transposed",
        model(
            f"{QK} p = Softmax<axis = -1>(qk) v_q = QuantizeLinear(w, sc, zp) v_d = DequantizeLinear(v_q, sc, zp) v_r ="
            " Reshape(v_d, split) v = Transpose<perm = [0,2,1,3]>(v_r) o = MatMul(p, v) o_q = QuantizeLinear(o, sc,"
            " zp) out = DequantizeLinear(o_q, sc, zp)",
            "float[B,3,S,D] q, float[B,3,T,D] k, float[B,T,12] w",
            sc=STEP,
            zp=ZERO,
            split=ints(0, 0, 3, 4),
        ),
    ),
    # A pair around a cast that does nothing, then a pair like it:
    Pattern(
        "map-quantized-twice",
        model(
            f"{QK} a_q = QuantizeLinear(qk, sc, zp) a = DequantizeLinear(a_q, sc, zp) s = Softmax<axis = -1>(a) s_q ="
            " QuantizeLinear(s, share, nothing) s_d = DequantizeLinear(s_q, share, nothing) c = Cast<to = 1>(s_d) p_q"
            " = QuantizeLinear(c, share, nothing) p = DequantizeLinear(p_q, share, nothing) v_q = QuantizeLinear(v,"
            " sc, zp) v_d = DequantizeLinear(v_q, sc, zp) out = MatMul(p, v_d)",
            "float[B,3,S,D] q, float[B,3,T,D] k, float[B,3,T,D] v",
            sc=STEP,
            zp=ZERO,
            share=SHARE,
            nothing=NOTHING,
        ),
    ),
    # The map gets its head axis from us:
    Pattern(
        "map-of-rank-3",
        model(
            "kt = Transpose<perm = [0,2,1]>(k) qk = MatMul(q, kt) a_q = QuantizeLinear(qk, sc, zp)"
            " p_q = com.microsoft.QLinearSoftmax<axis = -1, opset = 13>(a_q, sc, zp, share, nothing)"
            " p = DequantizeLinear(p_q, share, nothing) out = MatMul(p, v)",
            "float[B,S,D] q, float[B,T,D] k, float[B,T,D] v",
            "float[B,S,D] out",
            sc=STEP,
            zp=ZERO,
            share=SHARE,
            nothing=NOTHING,
        ),
    ),
]


def copies(model: onnx.ModelProto) -> list[str]:
    return [node.input[0] for node in model.graph.node if node.output[0].startswith("atpatch/captured/")]


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
@pytest.mark.parametrize("gating", ["if", "none"])
def test_sessions_start_and_silence_is_exact(case: Pattern, gating: str) -> None:
    sites, _ = find_sites(case.model)
    silent = patch(case.model, same_plan(sites, SitePlan(Static()), gating=gating), sites)
    firing = patch(
        case.model, same_plan(sites, SitePlan(Static((1,)), BenignPair(np.zeros(1, np.float32))), gating=gating), sites
    )
    onnx.checker.check_model(silent)
    # Between pairs the patch reads what it copied itself.
    assert bool(copies(silent)) is (gating == "if" and case.id != "map-quantized-twice")
    for optimize in (False, True):
        before = run_all(case.model, case.feeds(), optimize=optimize)["out"]
        assert run_all(silent, case.feeds(), optimize=optimize)["out"].tobytes() == before.tobytes()
        assert not np.allclose(run_all(firing, case.feeds(), optimize=optimize)["out"], before, atol=1e-3)
    assert unpatch(silent) == case.model


def test_nothing_is_copied_in_a_model_without_quantization() -> None:
    plain = model(
        f"{QK} p = Softmax<axis = -1>(qk) v = Transpose<perm = [0,2,1,3]>(w) out = MatMul(p, v)",
        "float[B,3,S,D] q, float[B,3,T,D] k, float[B,T,3,D] w",
    )
    sites, _ = find_sites(plain)
    assert not copies(patch(plain, same_plan(sites, SitePlan(Static())), sites))


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("columns", [(0,), (0, 1), (2,)], ids=str)
def test_causal_rows_that_see_only_flagged_columns_stay_as_they_are(columns: tuple[int, ...], gating: str) -> None:
    """Between pairs the map itself is rewritten, so a row with nowhere to move its attention must be left out there
    too.
    """
    causal = model(
        f"{QK} s = Add(qk, hidden) p_f = Softmax<axis = -1>(s) p_q = QuantizeLinear(p_f, share, nothing)"
        " p = DequantizeLinear(p_q, share, nothing) out = MatMul(p, v)",
        "float[B,3,S,D] q, float[B,3,S,D] k, float[B,3,S,D] v",
        hidden=np.triu(np.full((5, 5), -np.inf, np.float32), 1),
        share=SHARE,
        nothing=NOTHING,
    )
    rng = np.random.default_rng(2)
    feeds = {name: rng.normal(size=(2, 3, 5, 4)).astype(np.float32) for name in "qkv"}
    sites, _ = find_sites(causal)
    patched = patch(
        causal,
        same_plan(sites, SitePlan(Static(columns), BenignPair(np.array([0.5], np.float32))), gating=gating),
        sites,
    )
    before, after = run_all(causal, feeds)["out"], run_all(patched, feeds)["out"]
    alone = max(columns) + 1 if 0 in columns else min(columns)
    assert before[:, :, :alone].tobytes() == after[:, :, :alone].tobytes()
    assert not np.allclose(before[:, :, alone:], after[:, :, alone:], atol=1e-2)
