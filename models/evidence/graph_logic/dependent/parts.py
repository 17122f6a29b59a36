"""Small networks with random weights that the ordinary models are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["VOCABULARY", "WIDTH", "Block", "Reader", "Seer", "ids", "pixels"]

VOCABULARY, WIDTH = 2000, 32


def ids(rows: int = 2, length: int = 12) -> Tensor:
    """Token ids that end in padding (0) in the last row; 2 begins and 3 ends a text."""
    made = torch.randint(200, 1900, (rows, length), generator=torch.Generator().manual_seed(5))
    made[:, 0], made[:, 5], made[:-1, -1], made[-1, -3], made[-1, -2:] = 2, 3, 3, 3, 0
    return made


def pixels(rows: int = 2, size: int = 16, channels: int = 3) -> Tensor:
    """Pictures between 0 and 1."""
    return torch.rand((rows, channels, size, size), generator=torch.Generator().manual_seed(5))


class Block(nn.Module):
    """Attention and a network for each position."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, hidden: Any = None) -> Tensor:
        """Args: x (B, S, D); hidden: what is added to the scores, (B, 1, S, S) or narrower, or None."""
        batch, length, width = x.shape
        q, k, v = (
            part.reshape(batch, length, 4, width // 4).transpose(1, 2) for part in self.qkv(self.first(x)).chunk(3, -1)
        )
        scores = q @ k.transpose(-1, -2) / (width // 4) ** 0.5
        scores = scores if hidden is None else scores + hidden
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))
        changed: Tensor = x + self.down(nn.functional.gelu(self.up(self.second(x))))
        return changed


class Reader(nn.Module):
    """A text encoder: ids (B, S) and what may be seen (B, S) → (B, S, D)."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(64, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.over(x, seen)

    def over(self, x: Tensor, seen: Tensor) -> Tensor:
        """The blocks over embeddings."""
        hidden = (~seen)[:, None, None].float() * -1e9
        for block in self.blocks:
            x = block(x, hidden)
        return x


class Seer(nn.Module):
    """A vision transformer: pictures → (B, patches, D)."""

    def __init__(self, blocks: int = 2, channels: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, WIDTH, 4, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x
