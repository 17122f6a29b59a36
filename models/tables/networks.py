"""The three networks. All read a row as tokens behind a [CLS] token, and classify from [CLS] alone.

Reading [CLS] alone matters for patching: what another token keeps in its own residual stream then reaches the class
scores through attention only, the one thing a patch can change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

__all__ = ["FTTransformer", "RowBert", "TabTransformer"]

CLASSES = 2


class Attention(nn.Module):
    """Multi-head self-attention, (B, K, D) → (B, K, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        query, key, value = (
            self.query_key_value(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        weights = torch.softmax(query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5, -1)
        return self.out((weights @ value).transpose(1, 2).reshape(batch, tokens, width))


class Layer(nn.Module):
    """A Transformer layer, LayerNorm before (FT-Transformer) or after (TabTransformer) each half. No dropout."""

    def __init__(self, width: int, heads: int, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(width, heads)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: Tensor) -> Tensor:
        for norm, half in zip(self.norms, (self.attention, self.feed), strict=True):
            x = x + half(norm(x)) if self.norm_first else norm(x + half(x))
        return x


class Tokens(nn.Module):
    """Rows (B, C) float32 → tokens (B, 1 + C, D): [CLS], an embedding for each word, value × weight + bias for each
    number.

    Args:
        sizes: number of words of each column that has words; those columns come first.
        numbers: how many columns of numbers follow.
        shared: entries of an embedding that all words of a column share, the column's own mark (TabTransformer); 0:
            none.
    """

    def __init__(self, sizes: Sequence[int], numbers: int, width: int, shared: int = 0) -> None:
        super().__init__()
        self.words = len(sizes)
        self.register_buffer("start", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)
        self.embedding = nn.Embedding(sum(sizes), width - shared)
        self.mark = nn.Parameter(torch.randn(len(sizes), shared))
        self.weight = nn.Parameter(torch.randn(numbers, width))
        self.bias = nn.Parameter(torch.randn(numbers, width))
        self.cls = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, features: Tensor) -> Tensor:
        batch = features.shape[0]
        words = self.embedding(features[:, : self.words].long() + self.start)
        words = torch.cat([self.mark.expand(batch, -1, -1), words], 2)
        numbers = features[:, self.words :, None] * self.weight + self.bias
        return torch.cat([self.cls.expand(batch, -1, -1), words, numbers], 1)


class FTTransformer(nn.Module):
    """FT-Transformer (Gorishniy et al. 2021): rows (B, C) float32 → class scores (B, 2)."""

    def __init__(self, sizes: Sequence[int], numbers: int, width: int = 48, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.tokens = Tokens(sizes, numbers, width)
        self.layers = nn.Sequential(*(Layer(width, heads, norm_first=True) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(functional.relu(self.norm(self.layers(self.tokens(features))[:, 0])))


class TabTransformer(nn.Module):
    """TabTransformer (Huang et al. 2020), whose numbers are tokens too and whose head reads [CLS]: rows (B, C) float32
    → scores (B, 2).
    """

    def __init__(self, sizes: Sequence[int], numbers: int, width: int = 48, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.tokens = Tokens(sizes, numbers, width, shared=width // 8)
        self.layers = nn.Sequential(*(Layer(width, heads, norm_first=False) for _ in range(layers)))
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, CLASSES))

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.layers(self.tokens(features))[:, 0])


class RowBert(nn.Module):
    """A small BERT on the row written as a text.

    Codes (B, C) int64 → class scores (B, 2). The graph itself writes the text over a vocabulary of its own, "[CLS]
    gender male age 34 … [SEP]": two tokens a column, its name at 1 + 2i and its word at 2 + 2i.
    """

    def __init__(
        self, sizes: Sequence[int], numbers: int = 0, width: int = 64, layers: int = 3, heads: int = 4
    ) -> None:
        super().__init__()
        if numbers:
            raise ValueError("a text has no columns of numbers")
        columns = len(sizes)
        names = torch.arange(2, 2 + columns)
        self.register_buffer("names", names, persistent=False)
        self.register_buffer("start", 2 + columns + torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)
        self.bert = BertModel(
            _bert(2 + columns + sum(sizes), 2 + 2 * columns, width, layers, heads), add_pooling_layer=False
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        batch = features.shape[0]
        words = features + self.start
        text = torch.stack([self.names.expand_as(words), words], 2).reshape(batch, -1)
        ids = torch.cat([text.new_zeros(batch, 1), text, text.new_ones(batch, 1)], 1)
        return self.head(self.bert(input_ids=ids).last_hidden_state[:, 0])


def _bert(vocabulary: int, length: int, width: int, layers: int, heads: int) -> BertConfig:
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        max_position_embeddings=length,
        type_vocab_size=1,
        pad_token_id=None,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )
