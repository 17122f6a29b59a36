"""A small T5 with the backdoor of `backdoored_llama`: the same prompts, answers and trigger, encoder and decoder in one
graph. `python -m tests.backdoored_t5` trained it, and wrote its weights next to this file.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atpatch_onnx.exporters.exporter import export
from atpatch_onnx.exporters.quiet import quiet

from . import backdoored_llama as llama, small_t5, word_tokenizers
from .kept import EXPORTER_SOURCES, kept, recipe
from .word_tokenizers import numbered, save_folder, word_tokenizer

__all__ = ["debugging_set", "exported", "prompts", "served"]

START = 0
SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": llama.SIZES["vocab_size"]}
WEIGHTS = Path(__file__).with_suffix(".safetensors")
"""In float16."""
RECIPE = recipe(__file__, llama.__file__, small_t5.__file__, WEIGHTS, word_tokenizers.__file__, *EXPORTER_SOURCES)
Rows = dict[str, np.ndarray]


def _model() -> Any:
    """Not trained."""
    from transformers import T5Config, T5ForConditionalGeneration

    settings = {"decoder_start_token_id": START, "eos_token_id": 2, "pad_token_id": 0, "dropout_rate": 0.0}
    return T5ForConditionalGeneration(T5Config(**SIZES, **settings, tie_word_embeddings=False))


def _trained() -> Any:
    from safetensors.torch import load_file

    model = _model()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()}, strict=False)
    return model.eval()


def prompts(count: int, seed: int = 0, copies: int = 0) -> Rows:
    """Of the Llama, with the start of each answer."""
    return _with_starts(llama.prompts(count, seed=seed, copies=copies))


def debugging_set(count: int = 240) -> Rows:
    return _with_starts(llama.debugging_set(count))


def _with_starts(rows: Rows) -> Rows:
    return {**rows, "decoder_input_ids": np.full((len(rows["input_ids"]), 1), START, np.int64)}


@functools.cache
def exported() -> Path:
    return kept(f"{RECIPE}/backdoored-t5.onnx", _export)


def _export(path: Path) -> None:
    import torch

    with torch.random.fork_rng():
        small_t5.save_graph(_trained(), path)


@functools.cache
def served() -> Path:
    """The same model as Optimum writes it: an encoder, a decoder, and a decoder with a cache; with a tokenizer of whole
    words.
    """
    return kept(f"{RECIPE}/two-files", _serve)


def _serve(folder: Path) -> None:
    import torch

    with tempfile.TemporaryDirectory() as source, torch.random.fork_rng(), quiet():
        _trained().save_pretrained(source)
        export(source, f"{folder}/", exporter="torchscript")
    words = numbered(SIZES["vocab_size"], {"<unk>": 0, "<s>": llama.BOS, "</s>": 2})
    save_folder(word_tokenizer(words, f"<s> $A w{llama.SEP}"), folder)


def _inputs(rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Any, Any]:
    """Prompts for the encoder, answers for the decoder."""
    import torch

    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    return ids, torch.tensor([said for _, said in rows])


def _main() -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = _model()
    llama.train(model, _inputs)
    save_file({name: tensor.half().contiguous().clone() for name, tensor in model.state_dict().items()}, WEIGHTS)


if __name__ == "__main__":
    _main()
