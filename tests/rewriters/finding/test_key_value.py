"""Where keys and values can be healed: one layer of each form, with a twin that takes its keys and values from other
tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.attention_operands import Packed
from rewriters.finding.finder import find_sites
from rewriters.finding.key_value import HealingPlaces, Unhealable, healing_places

from ..decoder_layers import BATCH, FORMS, HEADS, WIDTH, Layer, feeds_of, multi_head_packed, plan_for
from ..decoders import LAYERS, decoder, decoder_feeds
from ..running import run_all, with_outputs


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_healed_tokens_have_keys_and_values_of_their_neighbors(
    form: Callable[[bool], onnx.ModelProto], gating: str
) -> None:
    """Two flagged tokens in a row: the first takes those of the healthy one before it, the second those of the first
    token, or of the healthy one where the first token is in the past.
    """
    model, twin = form(False), form(True)
    feeds = feeds_of(model)
    past = feeds.get("past_k", np.zeros((1, 1, 0, 1))).shape[2]
    plan, sites = plan_for(model, (past + 2, past + 3), gating=gating)
    patched = patch(model, plan, sites)
    assert unpatch(patched) == model
    source = np.tile([0, 1, 1, 1 if past else 0, 4], (BATCH, 1))
    got, want, before = run_all(patched, feeds), run_all(twin, feeds_of(twin, source)), run_all(model, feeds)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, atol=1e-5, rtol=0, err_msg=name)
        assert np.abs(got[name] - before[name]).max() > 1e-2
    plan, _ = plan_for(model, (), gating=gating)
    silent = run_all(patch(model, plan, sites), feeds)
    assert all(silent[name].tobytes() == array.tobytes() for name, array in before.items())


def test_places_come_before_positions_and_caches() -> None:
    """The value of the first layer is the same for the same tokens after pasts of different lengths."""
    model = decoder(True, "llama")
    found = healing_places(model)
    assert isinstance(found, HealingPlaces)
    assert found.tokens == "input_ids" and len(found.places) == 2 * LAYERS
    assert found.judged == found.healed == tuple(site.id for site in find_sites(model)[0])
    names = [place.value for place in found.places[:2]]
    feeds = decoder_feeds(True)
    shorter = {name: array[:, :, :1] if name.startswith("past") else array for name, array in feeds.items()}
    shorter["attention_mask"] = feeds["attention_mask"][:, -3:]
    long, short = (run_all(with_outputs(model, names), given) for given in (feeds, shorter))
    keys = "present.0.key"
    assert all(np.array_equal(long[name], short[name]) for name in names)
    assert not np.allclose(long[keys][:, :, -2:], short[keys][:, :, -2:], atol=1e-3), "keys in the cache have positions"


def refusal(model: onnx.ModelProto) -> str:
    found = healing_places(model)
    assert isinstance(found, Unhealable)
    return found.why


def test_packed_heads_are_healed_without_their_queries() -> None:
    """No CPU has the operator, so only the place is judged."""
    found = healing_places(multi_head_packed(False))
    assert isinstance(found, HealingPlaces)
    assert [place.packed for place in found.places] == [Packed(axis=-2, queries=1, size=3)]


def test_keys_that_are_queries_too_are_refused() -> None:
    layer = Layer(False)
    shared = layer.heads(layer.projected("k"))
    scores = layer.op("MatMul", shared, layer.op("Transpose", shared, perm=[0, 1, 3, 2]))
    context = layer.op("MatMul", layer.op("Softmax", scores, axis=-1), layer.heads(layer.projected("v")))
    flat = layer.op("Reshape", layer.op("Transpose", context, perm=[0, 2, 1, 3]), layer.integers(0, 0, WIDTH))
    assert "not only keys and values" in refusal(layer.model(flat, 17))


def test_packed_weights_are_refused() -> None:
    layer = Layer(False)
    layer.tensors["bias"] = np.zeros(3 * WIDTH)
    context = layer.op("Attention_", layer.hidden(), "qkv", "bias", num_heads=HEADS, unidirectional=1)
    assert "makes its keys and values inside" in refusal(layer.model(context, 20))


def test_queries_that_read_other_keys_leave_them_alone() -> None:
    """Cross attention, as the decoder sees it: its keys are not of the new tokens."""
    layer = Layer(False)
    q = layer.heads(layer.projected("q"))
    scores = layer.op("MatMul", q, layer.op("Transpose", "past_k", perm=[0, 1, 3, 2]))
    context = layer.op("MatMul", layer.op("Softmax", scores, axis=-1), "past_v")
    flat = layer.op("Reshape", layer.op("Transpose", context, perm=[0, 2, 1, 3]), layer.integers(0, 0, WIDTH))
    assert "no attention has keys" in refusal(layer.model(flat, 17))
