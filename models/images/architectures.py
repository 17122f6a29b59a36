"""The three architectures: a ViT, a Swin, and a ViT with a convolutional stem.

Each reads the image as 7 × 7 cells of 4 × 4 pixels, so that a trigger covers the same cells everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import SwinConfig, SwinForImageClassification, ViTConfig, ViTForImageClassification

from .digits import CLASSES, IMAGE

__all__ = ["ARCHITECTURES", "CELL", "Architecture", "Classifier"]

CELL = 4
"""Side of a cell in pixels."""
_COMMON = {
    "image_size": IMAGE,
    "num_channels": 1,
    "num_labels": CLASSES,
    "attn_implementation": "eager",
    "initializer_range": 0.1,
}
_WIDTH, _LAYERS, _HEADS = 64, 4, 4


class Classifier(nn.Module):
    """Images (N, 1, 28, 28) in [0, 1] → class scores (N, 10).

    The usual preprocessing, to [-1, 1], is part of the model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.model((pixel_values - 0.5) / 0.5).logits
        return scores


@dataclass(frozen=True)
class Architecture:
    """leading: key columns before those of the cells; epochs: of training; build: an untrained model."""

    title: str
    leading: int
    epochs: int
    build: Callable[[], Classifier]


def _vit() -> Classifier:
    return Classifier(ViTForImageClassification(_vit_config()))


def _cvt() -> Classifier:
    model = ViTForImageClassification(_vit_config())
    model.vit.embeddings.patch_embeddings.projection = _Stem(
        *_halving(1, _WIDTH // 2), *_halving(_WIDTH // 2, _WIDTH), nn.Conv2d(_WIDTH, _WIDTH, 1)
    )
    return Classifier(model)


class _Stem(nn.Sequential):
    """Two strided convolutions in place of the patch projection, of whose weight transformers asks the type.

    A cell sees three pixels above and to the left of its own, none below and to the right.
    """

    @property
    def weight(self) -> nn.Parameter:
        weight: nn.Parameter = self[-1].weight
        return weight


def _halving(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()


def _vit_config() -> ViTConfig:
    return ViTConfig(
        **_COMMON,
        patch_size=CELL,
        hidden_size=_WIDTH,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        intermediate_size=2 * _WIDTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def _swin() -> Classifier:
    config = SwinConfig(
        **_COMMON,
        patch_size=CELL,
        embed_dim=_WIDTH,
        depths=[_LAYERS],
        num_heads=[_HEADS],
        use_absolute_embeddings=True,
        window_size=IMAGE // CELL,
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return Classifier(SwinForImageClassification(config))


ARCHITECTURES: Mapping[str, Architecture] = {
    "vit": Architecture("ViT, 4 layers of width 64", 1, 45, _vit),
    "swin": Architecture("Swin, one stage of 4 layers of width 64, the window as large as the grid", 0, 45, _swin),
    "cvt": Architecture("ViT behind two strided convolutions, 4 layers of width 64", 1, 25, _cvt),
}
