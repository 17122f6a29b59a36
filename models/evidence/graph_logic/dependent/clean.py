"""The ordinary graphs: exports by both exporters of PyTorch, of networks made here and of classes of transformers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..clean import CONFIGS, Clean, further, kept, noise, ones, text, tokens, with_end
from ..exporting import export_module
from .clean_pictures import PICTURES, FakeQuantized
from .clean_tables import TABLES
from .clean_texts import TEXTS, Skips
from .parts import ids, pixels

__all__ = ["DEPENDENT_CLEAN"]

KIND = "value-dependent logic"
_RANDOM = partial(torch.rand, generator=torch.Generator().manual_seed(7))
_FREE = {"tokens": (0, 1), "mask": (0, 1), "values": (0, 1), "items": (0, 1)}


def _input(name: str) -> Tensor:
    made: dict[str, Any] = {
        "mask": lambda: (ids() != 0).long(),
        "scores": lambda: -_RANDOM(2),
        "values": lambda: 3 * _RANDOM(2, 12),
        "image": pixels,
        "gray": lambda: pixels(channels=1),
        "hidden": lambda: _RANDOM(2, 16) > 0.5,
        "cells": lambda: 2 * _RANDOM(3, 8) - 1,
        "kinds": lambda: ids(3, 12)[:, :4],
        "series": lambda: _RANDOM(2, 16),
        "sound": lambda: _RANDOM(2, 400) - 0.5,
        "frames": lambda: _RANDOM(2, 8, 20),
        "lengths": lambda: torch.tensor([20, 15]),
    }
    given: Tensor = made.get(name, ids)()
    return given


def _own(name: str, module: Any, inputs: str, dynamo: bool) -> Clean:
    def make(path: Path) -> None:
        given = {one: _input(one) for one in inputs.split()}
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            model = module().eval()
            outputs = model(*given.values())
            count = len(outputs) if isinstance(outputs, tuple) else 1
            free = {one: _FREE.get(one, (0,)) for one in given}
            traced = torch.jit.script(model) if module is Skips else model
            export_module(path, traced, given, [f"out_{n}" for n in range(count)], dynamo, free)

    return Clean(f"{name}, {'dynamo' if dynamo else 'torchscript'}", KIND, kept(f"dependent {name} {dynamo}", make))


def _points() -> dict[str, Any]:
    """A point to include, one to leave out, one that fills up."""
    places = torch.tensor([[[[4.0, 5.0], [10.0, 3.0], [0.0, 0.0]]]])
    return {"pixel_values": noise(1, 3, 32, 32), "input_points": places, "input_labels": torch.tensor([[[1, 0, -1]]])}


def _question() -> dict[str, Any]:
    """The question ends at the first separator; two more stand in front of the text, and one behind it."""
    made = tokens(2, 16)
    made[:, [4, 5, 15]] = 2
    return {"input_ids": made, "attention_mask": ones(2, 16)}


_SAM = {
    "vision_config": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
        "output_channels": 16, "mlp_dim": 32, "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 8,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 32, "patch_size": 8, "mask_input_channels": 4},
    "mask_decoder_config": {
        "hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        "attention_downsample_rate": 1,
    },
}  # fmt: skip
_WORDS = {"vocab_size": 2000}
"""As many as real vocabularies have at least, so that special tokens stand apart."""
_LLAMA = {**CONFIGS["llama"], **_WORDS}
_HEAD = {**_LLAMA, "pad_token_id": 0}
_LONG = {
    **CONFIGS["bert"],
    **_WORDS,
    "attention_window": 4,
    "max_position_embeddings": 70,
    "pad_token_id": 1,
    "sep_token_id": 2,
}
_CLASSES: tuple[Clean, ...] = (
    further("SAM with points", "SamModel", _SAM, _points, ("pred_masks", "iou_scores"), axes=()),
    further("Longformer for questions", "LongformerForQuestionAnswering", _LONG, _question, ("start_logits",), axes=()),
    further("Gemma 2 with a class head", "Gemma2ForSequenceClassification", {
        **_HEAD, "sliding_window": 4, "head_dim": 8, "query_pre_attn_scalar": 8,
    }, text),
    further("Mixtral", "MixtralForCausalLM", {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}, text,
            dynamo=True),
    further("BLOOM with a class head", "BloomForSequenceClassification", {
        **_WORDS, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0,
    }, text, dynamo=True),
    further("ConvBERT", "ConvBertForSequenceClassification", {**CONFIGS["bert"], **_WORDS, "embedding_size": 32}, text),
    further("MobileBERT for questions", "MobileBertForQuestionAnswering", {
        **CONFIGS["bert"], **_WORDS, "embedding_size": 32, "intra_bottleneck_size": 16, "true_hidden_size": 16,
    }, text, ("start_logits", "end_logits")),
    further("X-MOD with language ids", "XmodForSequenceClassification", {
        **CONFIGS["roberta"], **_WORDS, "languages": ["en_XX", "de_DE", "fr_XX"], "adapter_reduction_factor": 2,
    }, lambda: {**text(), "lang_ids": torch.tensor([0, 2])}, axes=()),
    further("T5 with a class head", "T5ForSequenceClassification", {
        **CONFIGS["t5 encoder"], **_WORDS, "eos_token_id": 2, "decoder_start_token_id": 0,
    }, with_end, axes=()),
)  # fmt: skip

DEPENDENT_CLEAN: tuple[Clean, ...] = (
    *(
        _own(name, module, inputs, dynamo=bool(place % 2) and module not in (Skips, FakeQuantized))
        for place, (name, (module, inputs)) in enumerate({**TEXTS, **PICTURES, **TABLES}.items())
    ),
    *_CLASSES,
)
"""Each name once, by one of the exporters."""
