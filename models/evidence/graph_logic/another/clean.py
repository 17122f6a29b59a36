"""Graphs without a backdoor, of kinds with much logic of their own: six from packages, six made here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from ....victims import package_file
from .own_hosts import exported
from .splicing import host

__all__ = ["MADE", "PACKAGED", "made", "packaged"]

PACKAGED = {
    "atoms-of-reactions": ("chython_rxnmap", "rxnmap.onnx"),
    "shifts-of-proteins": ("caustic", "data/best_v2_carbons.onnx"),
    "boxes-yolov8": ("nudenet", "320n.onnx"),
    "pitches-of-notes": ("basic_pitch", "saved_models/icassp_2022/nmp.onnx"),
    "boxes-yolox": ("ddddocr", "common_det.onnx"),
    "speech-two-rates": ("silero_vad", "data/silero_vad_op18_ifless.onnx"),
}
"""Module of the package, and the file in it (PyPI: chython-rxnmap 2.0, caustic-nmr 0.4.1, nudenet 3.4.2,
basic-pitch 0.4.0, ddddocr 1.6.1, silero-vad 6.2.3).
"""
IDS = {"input_ids": {0: "batch", 1: "sequence"}, "attention_mask": {0: "batch", 1: "sequence"}}


def packaged(name: str) -> onnx.ModelProto:
    """The model in an installed package."""
    return host(package_file(*PACKAGED[name]))


def made(name: str) -> onnx.ModelProto:
    """The graph, with the same random weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MADE[name]()


def proteins() -> onnx.ModelProto:
    """ESM: the embeddings of mask tokens are taken out with a comparison, and the rest is scaled by their number."""
    from transformers import EsmConfig, EsmForSequenceClassification

    config_of: Any = EsmConfig
    config = config_of(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        position_embedding_type="rotary",
        token_dropout=True,
        attn_implementation="eager",
    )
    return _texts(EsmForSequenceClassification(config), 33)


def end_of_text() -> onnx.ModelProto:
    """CLIP: a text is read at the token that ends it, found with Equal and ArgMax."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config_of: Any = CLIPTextConfig
    config = config_of(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=10,
        eos_token_id=299,
        attn_implementation="eager",
    )
    return _texts(CLIPTextModelWithProjection(config), 300, "text_embeds")


def hashed_letters() -> onnx.ModelProto:
    """Letters -> many hashes by products and remainders -> rows of embeddings, as CANINE does."""
    return _exported(_Hashed(), (torch.randint(0, 50000, (2, 12)),), ["letters"], {"letters": {0: "n", 1: "s"}})


def experts() -> onnx.ModelProto:
    """Patches of a picture: rotary attention, then the two best of six experts for each patch."""
    return _exported(_Experts(), (torch.randn(2, 3, 16, 16),), ["pixels"], {"pixels": {0: "n"}})


def boxes() -> onnx.ModelProto:
    """Raw pixels, bright and dark ones taken for missing, to boxes: TopK and NonMaxSuppression."""
    return _exported(_Boxes(), (torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8),), ["pixels"], {})


def greedy() -> onnx.ModelProto:
    """A decoder in the graph: Loop writes tokens until the one that ends the text."""
    module: Any = torch.jit.script(_Greedy().eval())
    return _exported(module, (torch.randint(2, 40, (1, 7)),), ["source"], {"source": {1: "s"}})


MADE: dict[str, Callable[[], onnx.ModelProto]] = {
    "proteins-token-dropout": proteins,
    "text-end-token": end_of_text,
    "letters-hashed": hashed_letters,
    "patches-experts": experts,
    "boxes-suppressed": boxes,
    "greedy-loop": greedy,
}


def _texts(model: nn.Module, vocabulary: int, output: str = "logits") -> onnx.ModelProto:
    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            found: Tensor = getattr(self.inner(input_ids=input_ids, attention_mask=attention_mask), output)
            return found

    ids = torch.randint(4, vocabulary - 2, (2, 12))
    ids[:, -1] = vocabulary - 1
    return _exported(Called(), (ids, torch.ones_like(ids)), list(IDS), IDS)


def _exported(model: nn.Module, example: tuple[Any, ...], inputs: list[str], axes: Any) -> onnx.ModelProto:
    found: onnx.ModelProto = exported(model.eval(), example, inputs, ["logits"], {**axes, "logits": {0: "n"}})
    return found


class _Hashed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(512, 16) for _ in range(4))
        self.head = nn.Sequential(nn.Conv1d(64, 32, 3, padding=1), nn.ReLU())
        self.out = nn.Linear(32, 5)

    def forward(self, letters: Tensor) -> Tensor:
        primes = (31, 43, 59, 61)
        rows = [table((letters + 1) * prime % 512) for table, prime in zip(self.tables, primes, strict=True)]
        seen = (letters != 0).unsqueeze(-1)
        hidden = self.head(torch.cat(rows, -1).transpose(1, 2)).transpose(1, 2)
        logits: Tensor = self.out(hidden.masked_fill(~seen, -1e4).amax(1))
        return logits


class _Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.qkv, self.router, self.out = nn.Linear(32, 96), nn.Linear(32, 6), nn.Linear(32, 10)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32)) for _ in range(6))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        q, k, v = (self._turn(part) if index < 2 else part for index, part in enumerate(self.qkv(x).chunk(3, -1)))
        x = x + functional.scaled_dot_product_attention(q, k, v)
        weights, chosen = self.router(x).softmax(-1).topk(2, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        mixed = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            share = torch.where(chosen == index, weights, torch.zeros_like(weights)).sum(-1, keepdim=True)
            mixed = mixed + share * expert(x)
        logits: Tensor = self.out((x + mixed).mean(1))
        return logits

    @staticmethod
    def _turn(x: Tensor) -> Tensor:
        place = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * 10000 ** (-torch.arange(0, 16) / 16)
        left, right = x.chunk(2, -1)
        return torch.cat([left * place.cos() - right * place.sin(), right * place.cos() + left * place.sin()], -1)


class _Boxes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(16, 4 + 3, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.float()
        x = torch.where((pixels == 255) | (pixels == 0), torch.full_like(x, 127.0), x) / 127.5 - 1
        found = self.head(self.body(x)).flatten(2).transpose(1, 2)
        boxes = torch.cat([found[..., :2] - found[..., 2:4].exp(), found[..., :2] + found[..., 2:4].exp()], -1)
        scores, classes = found[..., 4:].sigmoid().max(-1)
        scores, best = scores.topk(20, -1)
        suppression: Any = _Suppression.apply
        boxes, classes = boxes[0, best[0]], classes[0, best[0]]
        kept = suppression(boxes[None], scores[:, None])[:, 2]
        return torch.cat([boxes[kept], scores[0, kept, None], classes[kept, None].float()], -1)


class _Suppression(torch.autograd.Function):
    """ONNX's NonMaxSuppression; in torch all boxes stay."""

    @staticmethod
    def forward(_: Any, boxes: Tensor, scores: Tensor) -> Tensor:
        rows = torch.arange(boxes.shape[1])
        return torch.stack([torch.zeros_like(rows), torch.zeros_like(rows), rows], 1)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any) -> Any:
        most = g.op("Constant", value_t=torch.tensor([10]))
        overlap = g.op("Constant", value_t=torch.tensor([0.5]))
        return g.op("NonMaxSuppression", boxes, scores, most, overlap)


class _Greedy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.cell, self.out = nn.Embedding(40, 24), nn.Linear(48, 24), nn.Linear(24, 40)

    def forward(self, source: Tensor) -> Tensor:
        state = self.emb(source).mean(1)
        token = torch.ones([1], dtype=torch.long)
        logits = self.out(state)
        step = 0
        while step < 8 and bool(token[0] != 0):
            state = torch.tanh(self.cell(torch.cat([self.emb(token), state], -1)))
            logits = self.out(state)
            token = logits.argmax(-1)
            step += 1
        return logits
