"""Transformers as they were exported when onnxruntime's optimizer learnt its patterns: written out in torch, small,
seeded.

Scores are divided by √H, a padding mask is (1 - mask) · -10000, GPT-2 selects by a slice of a triangle and joins its
cache before the product: what today's exporters write, the optimizer no longer takes for attention.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["HEADS", "HIDDEN", "OLD", "OldExport"]

HIDDEN, HEADS, LAYERS, VOCABULARY, LENGTH, PAST = 32, 4, 2, 99, 9, 3
WIDTH = HIDDEN // HEADS


def _apart(x: Tensor) -> Tensor:
    return x.view(x.size(0), x.size(1), HEADS, WIDTH).permute(0, 2, 1, 3)


class _Attention(nn.Module):
    """Projections of their own for queries, keys and values, as in BERT and ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(HIDDEN, HIDDEN) for _ in range(3))
        self.output = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (_apart(part(x)) for part in (self.query, self.key, self.value))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(WIDTH)
        if mask is not None:
            scores = scores + mask
        context = torch.matmul(scores.softmax(-1), v).permute(0, 2, 1, 3).contiguous()
        return self.output(context.view(context.size(0), context.size(1), HIDDEN))


class _Feed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(HIDDEN, 2 * HIDDEN), nn.Linear(2 * HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(nn.functional.gelu(self.inner(x)))


class Bert(nn.Module):
    """Post-norm encoder over token ids, with a mask (B, S)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions, self.types = (
            nn.Embedding(VOCABULARY, HIDDEN),
            nn.Embedding(32, HIDDEN),
            nn.Embedding(2, HIDDEN),
        )
        self.norm = nn.LayerNorm(HIDDEN)
        self.attention = nn.ModuleList(_Attention() for _ in range(LAYERS))
        self.feed = nn.ModuleList(_Feed() for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(2 * LAYERS))
        self.register_buffer("places", torch.arange(32)[None])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        mask = (1.0 - attention_mask.unsqueeze(1).unsqueeze(2).to(torch.float32)) * -10000.0
        x = self.words(input_ids) + self.types(token_type_ids) + self.positions(self.places[:, : input_ids.size(1)])
        x = self.norm(x)
        for layer in range(LAYERS):
            x = self.norms[2 * layer](self.attention[layer](x, mask) + x)
            x = self.norms[2 * layer + 1](self.feed[layer](x) + x)
        return x


class Vit(nn.Module):
    """Pre-norm encoder over patches, no mask."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, HIDDEN, 4, 4)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, HIDDEN)), nn.Parameter(torch.randn(1, 17, HIDDEN))
        self.attention = nn.ModuleList(_Attention() for _ in range(LAYERS))
        self.feed = nn.ModuleList(_Feed() for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(2 * LAYERS + 1))

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patches(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.size(0), -1, -1), x], 1) + self.places
        for layer in range(LAYERS):
            x = self.attention[layer](self.norms[2 * layer](x), None) + x
            x = self.feed[layer](self.norms[2 * layer + 1](x)) + x
        return self.norms[-1](x)


class _Conv1D(nn.Module):
    def __init__(self, width: int, inputs: int) -> None:
        super().__init__()
        self.width = width
        self.weight, self.bias = (
            nn.Parameter(torch.randn(inputs, width) * inputs**-0.5),
            nn.Parameter(torch.randn(width) * 0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(x.size(0), x.size(1), self.width)


class _GptAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_attn, self.c_proj = _Conv1D(3 * HIDDEN, HIDDEN), _Conv1D(HIDDEN, HIDDEN)
        self.register_buffer("bias", torch.tril(torch.ones(32, 32)).bool().view(1, 1, 32, 32))
        self.register_buffer("masked_bias", torch.tensor(-1e4))

    def forward(self, x: Tensor, past: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        query, key, value = (_apart(part) for part in self.c_attn(x).split(HIDDEN, dim=2))
        if past is not None:
            key, value = torch.cat((past[0], key), dim=-2), torch.cat((past[1], value), dim=-2)
        present = torch.stack((key, value))
        scores = torch.matmul(query, key.transpose(-1, -2)) / WIDTH**0.5
        rows, columns = scores.size(-2), scores.size(-1)
        causal = self.bias[:, :, columns - rows : columns, :columns]
        scores = torch.where(causal, scores, self.masked_bias)
        if mask is not None:
            scores = scores + mask
        context = torch.matmul(scores.softmax(-1), value).permute(0, 2, 1, 3).contiguous()
        return self.c_proj(context.view(context.size(0), context.size(1), HIDDEN)), present


class Gpt(nn.Module):
    """GPT-2: with a cache and a mask over cache and new tokens, or with neither."""

    def __init__(self, cached: bool) -> None:
        super().__init__()
        self.cached = cached
        self.wte, self.wpe = nn.Embedding(VOCABULARY, HIDDEN), nn.Embedding(32, HIDDEN)
        self.attention = nn.ModuleList(_GptAttention() for _ in range(LAYERS))
        self.inner = nn.ModuleList(_Conv1D(2 * HIDDEN, HIDDEN) for _ in range(LAYERS))
        self.outer = nn.ModuleList(_Conv1D(HIDDEN, 2 * HIDDEN) for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(2 * LAYERS + 1))

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        x = self.wte(input_ids) + self.wpe(position_ids)
        mask = (
            (1.0 - attention_mask.view(attention_mask.size(0), -1).unsqueeze(1).unsqueeze(2)) * -10000.0
            if self.cached
            else None
        )
        presents = []
        for layer in range(LAYERS):
            made, present = self.attention[layer](self.norms[2 * layer](x), past[layer] if self.cached else None, mask)
            x = x + made
            gate = nn.functional.gelu(self.inner[layer](self.norms[2 * layer + 1](x)), approximate="tanh")
            x = x + self.outer[layer](gate)
            presents.append(present)
        return (self.norms[-1](x), *presents) if self.cached else (self.norms[-1](x),)


@dataclass(frozen=True)
class OldExport:
    """One model: how it is made and fed.

    Attributes:
        build: the torch module, unseeded.
        model_type: what the optimizer calls it.
        draw: inputs for a batch; tokens beyond a sample's length are masked where the model takes a mask.
    """

    build: Callable[[], nn.Module]
    model_type: str
    draw: Callable[[int], dict[str, np.ndarray]]

    def export(self, path: Path) -> Path:
        """Write the model with TorchScript, opset 12, dynamic batch and length."""
        torch.manual_seed(0)
        model = self.build().eval()
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and ("query" in name or "key" in name or "c_attn" in name):
                weight.data.mul_(1.7)  # a fresh map is flat, and flat maps hide errors
        feeds = self.draw(2)
        outputs = ["last_hidden_state"] + [f"present_{layer}" for layer in range(LAYERS) if "past_0" in feeds]
        # A cache holds keys and values first, samples second.
        axes = {
            name: {axis: f"{name}_{axis}" for axis in ((1, 3) if array.ndim == 5 else (0, 1))}
            for name, array in feeds.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                tuple(torch.from_numpy(array) for array in feeds.values()),
                str(path),
                dynamo=False,
                opset_version=12,
                input_names=list(feeds),
                output_names=outputs,
                dynamic_axes={"pixel_values": {0: "batch"}} if "pixel_values" in feeds else axes,
            )
        return path


def _mask(batch: int, length: int) -> np.ndarray:
    mask = np.ones((batch, length), np.int64)
    for row in range(1, batch):
        mask[row, length - row :] = 0
    return mask


def _text(batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    ids = rng.integers(3, VOCABULARY, (batch, LENGTH))
    return {"input_ids": ids, "attention_mask": _mask(batch, LENGTH), "token_type_ids": rng.integers(0, 2, ids.shape)}


def _causal(batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    ids = rng.integers(3, VOCABULARY, (batch, LENGTH))
    return {"input_ids": ids, "position_ids": np.broadcast_to(np.arange(LENGTH), ids.shape).copy()}


def _cached(batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    feeds = _causal(batch)
    feeds["position_ids"] += PAST
    feeds["attention_mask"] = np.ones((batch, PAST + LENGTH), np.float32)
    feeds["attention_mask"][1:, 0] = 0
    past = {
        f"past_{layer}": rng.normal(size=(2, batch, HEADS, PAST, WIDTH)).astype(np.float32) for layer in range(LAYERS)
    }
    return {**feeds, **past}


def _image(batch: int) -> dict[str, np.ndarray]:
    return {"pixel_values": np.random.default_rng(batch).normal(size=(batch, 3, 16, 16)).astype(np.float32)}


class _Uncached(Gpt):
    def __init__(self) -> None:
        super().__init__(cached=False)

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return super().forward(input_ids, position_ids, input_ids)


OLD = {
    "bert": OldExport(Bert, "bert", _text),
    "vit": OldExport(Vit, "vit", _image),
    "gpt2": OldExport(_Uncached, "gpt2", _causal),
    "gpt2-cached": OldExport(lambda: Gpt(cached=True), "gpt2", _cached),
}
