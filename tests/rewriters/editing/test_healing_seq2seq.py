"""Decoders of T5, BART and Whisper with caches of both attentions: self-attention is healed, cross attention is not."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from transformers import DynamicCache, EncoderDecoderCache

from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.finding.key_value import HealingPlaces, healing_places
from rewriters.plan import PatchPlan, SitePlan, Static

from ..decoders import quiet
from ..running import run_all
from .healed import healed, source_of

LAYERS, HEADS, WIDTH, VOCABULARY = 2, 4, 32, 99
BATCH, PAST, NEW, ENCODER = 2, 3, 4, 6
COMMON = {
    "vocab_size": VOCABULARY,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TWO_SIDES = {
    **{f"{side}_layers": LAYERS for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": HEADS for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")},
    "d_model": WIDTH,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": (
        "T5ForConditionalGeneration",
        {
            "d_model": WIDTH,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": LAYERS,
            "num_decoder_layers": LAYERS,
            "num_heads": HEADS,
        },
    ),
    "bart": ("BartForConditionalGeneration", {**TWO_SIDES, "max_position_embeddings": 64}),
    "whisper": (
        "WhisperForConditionalGeneration",
        {**TWO_SIDES, "max_target_positions": 64, "max_source_positions": 20, "num_mel_bins": 8},
    ),
}
PASTS = [f"past.{layer}.{side}.{part}" for layer in range(LAYERS) for side in ("self", "cross") for part in "kv"]
PRESENTS = [f"present.{layer}.{part}" for layer in range(LAYERS) for part in "kv"]


@cache
def exported(family: str) -> tuple[torch.nn.Module, onnx.ModelProto]:
    """(input_ids, states, pasts) → (logits, presents of self-attention), in torch and as a graph."""
    name, sizes = FAMILIES[family]
    model_class = getattr(transformers, name)
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(0)
        model = model_class(model_class.config_class(**sizes, **COMMON, attn_implementation="eager")).eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, 0, 0.2)
    head = model.proj_out if family == "whisper" else model.lm_head

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, states: torch.Tensor, *pasts: torch.Tensor) -> tuple[torch.Tensor, ...]:
            both = EncoderDecoderCache(DynamicCache(), DynamicCache())
            for layer in range(LAYERS):
                both.self_attention_cache.update(*pasts[4 * layer : 4 * layer + 2], layer)
                both.cross_attention_cache.update(*pasts[4 * layer + 2 : 4 * layer + 4], layer)
                both.is_updated[layer] = True
            result = model.get_decoder()(
                input_ids=ids, encoder_hidden_states=states, past_key_values=both, use_cache=True
            )
            kept = both.self_attention_cache.layers
            return (head(result.last_hidden_state), *(part for one in kept for part in (one.keys, one.values)))

    decoder, feeds = Decoder().eval(), feeds_of()
    axes = {name: {0: "batch", 2: "encoded" if "cross" in name else "past"} for name in PASTS}
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "decoder.onnx"
        torch.onnx.export(
            decoder,
            tuple(torch.from_numpy(array) for array in feeds.values()),
            path,
            dynamo=False,
            opset_version=17,
            input_names=list(feeds),
            output_names=["logits", *PRESENTS],
            dynamic_axes={"input_ids": {0: "batch", 1: "new"}, "states": {0: "batch", 1: "encoded"}, **axes},
        )
        return decoder, onnx.load(path)


def feeds_of(new: int = NEW) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = rng.integers(3, VOCABULARY, (BATCH, NEW))[:, :new]
    sizes = {name: ENCODER if "cross" in name else PAST for name in PASTS}
    states = rng.normal(size=(BATCH, ENCODER, WIDTH))
    pasts = {name: rng.normal(size=(BATCH, HEADS, size, WIDTH // HEADS)) for name, size in sizes.items()}
    floats = {name: array.astype(np.float32) for name, array in {"states": states, **pasts}.items()}
    return {"input_ids": ids, **floats}


def plan(model: onnx.ModelProto, columns: tuple[int, ...]) -> tuple[PatchPlan, Any]:
    found = healing_places(model)
    assert isinstance(found, HealingPlaces)
    plans = {site: SitePlan(Static(columns)) for site in found.judged}
    return PatchPlan(plans, passes="two", groups=(found.judged,), mend="heal"), find_sites(model)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_self_attention_is_healed(family: str) -> None:
    model = exported(family)[1]
    found = healing_places(model)
    assert isinstance(found, HealingPlaces) and found.tokens == "input_ids"
    assert len(found.places) == 2 * LAYERS and len(found.healed) == LAYERS
    assert not any("encoder_attn" in site or "EncDec" in site for site in found.healed)


@pytest.mark.parametrize("new", [NEW, 1], ids=["several tokens", "a step"])
@pytest.mark.parametrize("family", FAMILIES)
def test_healing_agrees_with_torch(family: str, new: int) -> None:
    decoder, model = exported(family)
    feeds = feeds_of(new)
    before = run_all(model, feeds)
    silent = run_all(patch(model, *plan(model, ())), feeds)
    assert all(silent[name].tobytes() == array.tobytes() for name, array in before.items())
    got = run_all(patch(model, *plan(model, (PAST + 1, PAST + 2))), feeds)
    flags = np.zeros((BATCH, new), bool)
    flags[:, 1:3] = True
    with torch.no_grad(), healed(decoder, source_of(flags, np.ones_like(flags), begins=False)):
        want = decoder(*(torch.from_numpy(array) for array in feeds.values()))
    for name, array in zip(["logits", *PRESENTS], (value.numpy() for value in want), strict=True):
        np.testing.assert_allclose(got[name], array, atol=1e-4 * np.abs(array).max(), rtol=0, err_msg=name)
    changed = np.abs(got["logits"] - before["logits"]).max() > 1e-3
    assert changed == (new > 1), "a decoding step heals nothing"
