"""`atpatch_length_unseen`: telemetry that says which requests are shorter or longer than any that calibration saw."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rewriters.editing.patcher import patch, stamp, unpatch
from rewriters.names import LENGTH_UNSEEN, is_telemetry
from rewriters.plan import PatchPlan, SitePlan, Static
from rewriters.sites import Site

from ..graphs import B, K, attention_block, feeds, run


def masked() -> tuple[onnx.ModelProto, list[Site], PatchPlan]:
    """A block whose padding the graph input "mask" shows, and a plan that has seen three to five tokens."""
    block = attention_block()
    block.model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.INT64, ["B", "K"]))
    plan = PatchPlan({block.site.id: SitePlan(Static())}, telemetry=True, lengths=(3, 5))
    return block.model, [replace(block.site, key_mask="mask")], plan


def request(*lengths: int) -> dict[str, np.ndarray]:
    return {**feeds(), "mask": (np.arange(K) < np.array(lengths)[:, None]).astype(np.int64)}


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("lengths", [(2, 3, 5), (6, 4, 7)])
def test_requests_beyond_the_lengths_seen_are_reported_sample_by_sample(lengths: tuple[int, ...], gating: str) -> None:
    model, sites, plan = masked()
    patched = patch(model, replace(plan, gating=gating), sites)  # type: ignore[arg-type]
    got = run(patched, request(*lengths))[LENGTH_UNSEEN]
    np.testing.assert_array_equal(got, [not 3 <= length <= 5 for length in lengths])
    assert got.shape == (B,) and is_telemetry(LENGTH_UNSEEN)
    assert unpatch(patched) == model


def test_the_stamp_holds_the_lengths_with_telemetry_and_without() -> None:
    model, sites, plan = masked()
    for telemetry in (True, False):
        patched = patch(model, replace(plan, telemetry=telemetry), sites)
        assert json.loads(stamp(patched)["lengths"]) == {"shortest": 3, "longest": 5, "mask": "mask"}
        assert (LENGTH_UNSEEN in {output.name for output in patched.graph.output}) is telemetry


def test_there_is_no_warning_where_lengths_are_not_known_or_no_input_masks_padding() -> None:
    model, sites, plan = masked()
    for made, found in ((replace(plan, lengths=None), sites), (plan, [replace(sites[0], key_mask=None)])):
        patched = patch(model, made, found)
        assert LENGTH_UNSEEN not in {output.name for output in patched.graph.output}
        assert "lengths" not in stamp(patched)
