"""A small T5 with random weights, exported as one graph: tokens of the encoder and of the answer in, logits out."""

from __future__ import annotations

import contextlib
import functools
import io
from pathlib import Path
from typing import Any

import numpy as np

from atpatch_onnx.exporters.quiet import quiet
from atpatch_onnx.inference.datasets import DataSet

from . import word_tokenizers
from .kept import kept, recipe
from .word_tokenizers import numbered, word_tokenizer

__all__ = ["START", "STOP", "VOCABULARY", "exported", "model", "prompts", "save_graph"]

VOCABULARY, START, STOP = 64, 0, 1
SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY}


@functools.cache
def model() -> Any:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    with torch.random.fork_rng(), contextlib.redirect_stderr(io.StringIO()):
        torch.manual_seed(0)
        settings = T5Config(**SIZES, decoder_start_token_id=START, eos_token_id=STOP, tie_word_embeddings=False)
        made = T5ForConditionalGeneration(settings).eval()
        with torch.no_grad():  # a fresh model hardly looks at the prompt
            for name, weight in made.named_parameters():
                if weight.dim() == 2 and "relative" not in name and "shared" not in name:
                    weight.mul_(6 if "EncDec" in name else 2)
    return made


def exported() -> Path:
    """The graph; next to it lie the configuration, and a tokenizer of whole words: w3, w4 and so on, with </s> behind a
    text.
    """
    return kept(f"{recipe(__file__, word_tokenizers.__file__)}/small-t5", _save) / "model.onnx"


def _save(folder: Path) -> None:
    model().config.save_pretrained(folder)
    words = numbered(VOCABULARY, {"<pad>": 0, "</s>": STOP, "<unk>": 2})
    word_tokenizer(words, "$A </s>").save(str(folder / "tokenizer.json"))
    save_graph(model(), folder / "model.onnx")


def save_graph(model: Any, path: Path) -> None:
    """Encoder and decoder in one graph, without a cache."""
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, ids: Any, mask: Any, said: Any) -> Any:
            return self.inner(input_ids=ids, attention_mask=mask, decoder_input_ids=said, use_cache=False).logits

    names = ["input_ids", "attention_mask", "decoder_input_ids"]
    axes = {name: {0: "batch", 1: "answer" if name.startswith("decoder") else "prompt"} for name in names}
    feeds = (torch.ones(2, 6, dtype=torch.long),) * 2 + (torch.ones(2, 3, dtype=torch.long),)
    with quiet():
        torch.onnx.export(
            Whole().eval(),
            feeds,
            path,
            input_names=names,
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch", 1: "answer"}},
            opset_version=17,
            dynamo=False,
        )


def prompts(lengths: tuple[int, ...] = (5, 9, 7, 3, 9, 4), seed: int = 0) -> DataSet:
    """Random tokens, padded on the right, and the start of each answer."""
    rng, longest = np.random.default_rng(seed), max(lengths)
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
    ids = mask * rng.integers(3, VOCABULARY, (len(lengths), longest))
    starts = np.full((len(lengths), 1), START)
    return DataSet({"input_ids": ids, "attention_mask": mask, "decoder_input_ids": starts})
