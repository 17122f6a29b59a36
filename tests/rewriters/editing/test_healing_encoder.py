"""Flagged tokens of an encoder: healed are keys and values of its own attention and of the decoder's cross attention.

In one graph, and where the decoder is another file, which then reads the neighbors' hidden states.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from rewriters.editing.patcher import patch, unpatch
from rewriters.errors import AtpatchError
from rewriters.finding.finder import find_sites
from rewriters.finding.key_value import HealingPlaces, healing_places
from rewriters.plan import PatchPlan, SitePlan, Static
from tests import small_t5
from tests.merged import encoder_decoder, seq2seq

from ..decoders import decoder
from ..running import run_all
from .healed import healed, source_of

Feeds = dict[str, np.ndarray]
COLUMNS = [(2,), (1, 2, 3), (0, 4)]
"""The first token is never flagged."""


class EncodersKeys:
    """Modules of a torch model whose keys and values are made of the encoder's tokens."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model

    def named_modules(self) -> Iterator[tuple[str, torch.nn.Module]]:
        cross = ("encoder.", "EncDecAttention", "encoder_attn")
        return ((name, one) for name, one in self._model.named_modules() if any(word in name for word in cross))


def expected(model: Any, feeds: Feeds, columns: tuple[int, ...]) -> np.ndarray:
    """Logits of torch."""
    valid = feeds["attention_mask"] != 0
    flags = np.isin(np.arange(valid.shape[1]), [column for column in columns if column]) & valid
    with torch.no_grad(), healed(EncodersKeys(model), source_of(flags, valid)):
        result = model(**{name: torch.from_numpy(array) for name, array in feeds.items()}, use_cache=False)
    return result.logits.numpy()


def heal(model: onnx.ModelProto, columns: tuple[int, ...], **options: object) -> onnx.ModelProto:
    places = healing_places(model)
    assert isinstance(places, HealingPlaces)
    plans = {name: SitePlan(Static(columns)) for name in places.judged}
    plan = PatchPlan(plans, passes="two", groups=(places.judged,), mend="heal", **options)  # type: ignore[arg-type]
    return patch(model, plan, find_sites(model)[0])


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("columns", COLUMNS, ids=str)
def test_in_one_graph(columns: tuple[int, ...], gating: str) -> None:
    model = onnx.load(small_t5.exported())
    answer = np.random.default_rng(0).integers(3, 60, (6, 4))
    feeds = {**small_t5.prompts().inputs, "decoder_input_ids": answer}
    before = run_all(model, feeds)["logits"]
    assert run_all(heal(model, (), gating=gating), feeds)["logits"].tobytes() == before.tobytes()
    got, want = (
        run_all(heal(model, columns, gating=gating), feeds)["logits"],
        expected(small_t5.model(), feeds, columns),
    )
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max(), rtol=0)
    assert np.abs(got - before).max() > 0.1


@functools.cache
def in_torch(family: str) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(encoder_decoder(family), attn_implementation="eager").eval()


@functools.cache
def part(family: str, side: str) -> onnx.ModelProto:
    return onnx.load(seq2seq(family) / f"{side}_model.onnx")


def answers(family: str, encoder: onnx.ModelProto, feeds: Feeds) -> Feeds:
    """Of the first step of the decoder, behind an encoder."""
    states = run_all(encoder, {name: feeds[name] for name in ("input_ids", "attention_mask")})["last_hidden_state"]
    given = {
        "input_ids": feeds["decoder_input_ids"],
        "encoder_hidden_states": states,
        "encoder_attention_mask": feeds["attention_mask"],
    }
    return run_all(part(family, "decoder"), given)


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_in_a_file_of_its_own(family: str, gating: str) -> None:
    rng, mask = np.random.default_rng(0), np.ones((3, 7), np.int64)
    mask[1, 5:] = 0
    feeds = {"input_ids": rng.integers(3, 60, (3, 7)), "attention_mask": mask}
    feeds["decoder_input_ids"] = rng.integers(3, 60, (3, 3))
    encoder = part(family, "encoder")
    before = answers(family, encoder, feeds)
    silent = answers(family, heal(encoder, (), states=True, gating=gating), feeds)
    assert all(silent[name].tobytes() == array.tobytes() for name, array in before.items())
    for columns in COLUMNS:
        patched = heal(encoder, columns, states=True, gating=gating)
        got, want = answers(family, patched, feeds)["logits"], expected(in_torch(family), feeds, columns)
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max(), rtol=0)
    assert np.abs(got - before["logits"]).max() > 1e-3
    assert unpatch(patched) == encoder
    alone = answers(family, heal(encoder, COLUMNS[-1], gating=gating), feeds)["logits"]
    assert np.abs(alone - want).max() > 1e-3, "without its states, cross attention still reads flagged tokens"


def test_logits_are_no_hidden_states() -> None:
    model = decoder(True, "llama")
    places = healing_places(model)
    assert isinstance(places, HealingPlaces) and places.states == ()
    with pytest.raises(AtpatchError, match="hidden states") as refused:
        heal(model, (3,), states=True)
    assert refused.value.code == "ATP023"


def test_states_that_the_graph_reads_itself_are_left() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(part("bart", "encoder"))
    places = healing_places(model)
    assert isinstance(places, HealingPlaces) and places.states == ("last_hidden_state",)
    model.graph.node.append(onnx.helper.make_node("Tanh", ["last_hidden_state"], ["pooled"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, None))
    pooled = healing_places(model)
    assert isinstance(pooled, HealingPlaces) and "last_hidden_state" not in pooled.states
