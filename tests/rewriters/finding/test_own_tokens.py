"""Sites whose columns are the tokens of each request and whose rows are the last of these."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch, unpatch
from rewriters.errors import AtpatchError
from rewriters.finding.finder import find_sites
from rewriters.finding.own_tokens import own_token_sites
from rewriters.names import SPAN, SPAN_ATTENTION
from rewriters.plan import PatchPlan, SitePlan, Smoothing, Static
from tests.exports import EXPORTERS, export_model

from ..running import run_all, with_outputs

SPANS = np.array([[1, 3], [2, 5], [0, 2]])
SIDES = {"encoder": ("encoder.block",), "decoder": ("decoder.block", ".SelfAttention")}


@pytest.fixture(params=EXPORTERS)
def t5(request: pytest.FixtureRequest) -> onnx.ModelProto:
    """Both sides in one file, each with an input of tokens."""
    return onnx.load(export_model("t5", request.param).path)


def of_side(model: onnx.ModelProto, side: str) -> list[str]:
    return [site.id for site in find_sites(model)[0] if all(part in site.id for part in SIDES[side])]


def test_both_sides_of_an_encoder_decoder_show_their_own_tokens_and_cross_attention_does_not(
    t5: onnx.ModelProto,
) -> None:
    """The rows of cross attention are other tokens than its columns."""
    sites, _ = find_sites(t5)
    found = [site.id for site in own_token_sites(t5, sites, sites)]
    assert found == [*of_side(t5, "encoder"), *of_side(t5, "decoder")] and len(found) == 4
    assert len(sites) == 6


@pytest.mark.parametrize("side", SIDES)
def test_a_healed_side_reports_on_marked_tokens(t5: onnx.ModelProto, side: str) -> None:
    """The rows of samples without padding; nothing is flagged, so the maps are those of the original."""
    sites, _ = find_sites(t5)
    names = tuple(of_side(t5, side))
    plans = {name: SitePlan(Static(())) for name in names}
    plan = PatchPlan(plans, passes="two", groups=(names,), mend="heal", span="required")
    patched = patch(t5, plan, sites)
    feeds = export_model("t5", "torchscript").feeds(3, padded=side == "encoder")
    got, before = run_all(patched, {**feeds, SPAN: SPANS}), run_all(t5, feeds)
    assert all(array.tobytes() == got[name].tobytes() for name, array in before.items())
    maps = run_all(with_outputs(t5, [site.probabilities for site in sites if site.id in names]), feeds)
    rows = [maps[site.probabilities] for site in sites if site.id in names]
    last = feeds["attention_mask"].sum(1) - 1 if side == "encoder" else np.full(3, rows[0].shape[2] - 1)
    want = [[row[at, :, last[at], begin:end].sum(1) for at, (begin, end) in enumerate(SPANS.tolist())] for row in rows]
    np.testing.assert_allclose(got[SPAN_ATTENTION], np.concatenate(want, 1), atol=1e-6)
    assert unpatch(patched) == t5


def test_cross_attention_is_not_smoothed(t5: onnx.ModelProto) -> None:
    sites, _ = find_sites(t5)
    cross = next(site for site in sites if "EncDec" in site.id)
    with pytest.raises(AtpatchError, match="rows are the last tokens") as refused:
        patch(t5, PatchPlan({cross.id: SitePlan(Smoothing())}), sites)
    assert refused.value.code == "ATP023"
