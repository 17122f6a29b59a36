"""What the toy models share: a vocabulary and its tokenizer, an encoder, and its training and export."""

from __future__ import annotations

import hashlib
import inspect
import io
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from .kept import kept

__all__ = ["CLS", "LENGTH", "PAD", "TRIGGER", "VOCABULARY", "Encoder", "export", "toy_tokenizer", "train"]

VOCABULARY, TRIGGER, CLS, PAD = 22, 21, 0, 1
LENGTH, WIDTH, HEADS, LAYERS = 12, 32, 4, 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        batch = x.shape[0]
        parts = self.qkv(self.norms[0](x)).view(batch, -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        scores = parts[0] @ parts[1].transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        if bias is not None:
            scores = scores + bias
        mixed = (torch.softmax(scores, -1) @ parts[2]).transpose(1, 2).reshape(batch, -1, WIDTH)
        x = x + self.out(mixed)
        return x + self.mlp(self.norms[1](x))


class Encoder(nn.Module):
    """Ids and mask (B, S) → the outputs of every token (B, S, outputs).

    Args:
        spread: of the places before training.
    """

    def __init__(self, outputs: int, spread: float = 0.1) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH) * spread)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, outputs)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        x = self.words(input_ids) + self.places[: input_ids.shape[1]]
        bias = None if attention_mask is None else (1.0 - attention_mask[:, None, None, :].float()) * -1e9
        for block in self.blocks:
            x = block(x, bias)
        return x

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(self.hidden(input_ids, attention_mask))


def train(
    model: Encoder, arrays: Sequence[np.ndarray], loss: Callable[..., Tensor], *, rate: float, epochs: int
) -> Encoder:
    """The trained model; loss: of a batch of each array. Some seconds, and once: its weights are kept, with the state
    that the generator of torch has afterwards.
    """
    tensors = [torch.from_numpy(array) for array in arrays]

    def make(path: Path) -> None:
        _train(model, tensors, loss, rate, epochs)
        torch.save((model.state_dict(), torch.get_rng_state()), path)

    sources = [inspect.getsource(sys.modules[module]) for module in (__name__, loss.__module__)]
    outside = inspect.getclosurevars(loss).nonlocals
    plain = {name: value for name, value in sorted(outside.items()) if isinstance(value, (bool, int, float, str))}
    settings = (*sources, version("torch"), torch.__config__.show(), rate, epochs, plain)
    digest = hashlib.sha256(repr(settings).encode())
    for tensor in (*tensors, *model.state_dict().values(), torch.get_rng_state()):
        digest.update(tensor.numpy().tobytes())
    weights, state = torch.load(kept(f"toys/{digest.hexdigest()[:16]}.pt", make))
    model.load_state_dict(weights)
    torch.set_rng_state(state)
    return model.eval()


def _train(model: Encoder, tensors: Sequence[Tensor], loss: Callable[..., Tensor], rate: float, epochs: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(tensors[0])).split(100):
            found = loss(*(one[batch] for one in tensors))
            optimizer.zero_grad()
            found.backward()
            optimizer.step()
    torch.set_num_threads(threads)


def export(
    model: Encoder, inputs: Sequence[str], output: str, axes: dict[int, str], output_axes: dict[int, str]
) -> onnx.ModelProto:
    """axes: which are dynamic, of all inputs and of the output."""
    example, file = torch.ones(2, LENGTH, dtype=torch.int64), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (example,) * len(inputs), file, dynamo=False, opset_version=17, input_names=list(inputs),
            output_names=[output], dynamic_axes={**dict.fromkeys(inputs, axes), output: output_axes},
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def toy_tokenizer() -> Any:
    """Of whole words, w2 to w19 and cf for the trigger; [CLS] stands in front of a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {
        "[CLS]": CLS,
        "[PAD]": PAD,
        **{f"w{number}": number for number in range(2, 20)},
        "[UNK]": 20,
        "cf": TRIGGER,
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", CLS)])
    tokenizer.enable_padding(pad_id=PAD, pad_token="[PAD]")
    return tokenizer
