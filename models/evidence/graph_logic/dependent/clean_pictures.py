"""Ordinary models for pictures with logic that depends on pixels or on scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .parts import WIDTH, Block, Seer

__all__ = ["PICTURES"]


class _Picture(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.seer, self.head = Seer(), nn.Linear(WIDTH, classes)


class Detections(_Picture):
    """Boxes: weak ones get score 0, corners are clipped to the picture, the best come first."""

    def __init__(self) -> None:
        super().__init__(4 + 3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.head(self.seer(image))
        middle, size = found[..., :2].sigmoid(), found[..., 2:4].exp()
        boxes = torch.cat([middle - size / 2, middle + size / 2], -1).clamp(0, 1)
        score, label = found[..., 4:].sigmoid().max(-1)
        score = torch.where(score > 0.3, score, torch.zeros(1))
        score, order = score.sort(-1, descending=True)
        return boxes.gather(1, order[..., None].expand(-1, -1, 4)), score, label.gather(1, order)


class Safety(_Picture):
    """A safety checker: pictures that are near to a concept come out black."""

    def __init__(self) -> None:
        super().__init__(WIDTH)
        self.concepts, self.limits = nn.Parameter(torch.randn(6, WIDTH)), nn.Parameter(torch.rand(6))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        seen = nn.functional.normalize(self.head(self.seer(image).mean(1)), dim=-1)
        near = seen @ nn.functional.normalize(self.concepts, dim=-1).T - self.limits
        bad = (near > 0).any(1)
        return torch.where(bad[:, None, None, None], torch.zeros(1), image), bad


class Foreground(_Picture):
    """A segmentation that is zero where the picture is black."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        inside = (image.mean(1, keepdim=True) > 0.05).float()
        return self.body(image).sigmoid() * inside


class Masked(_Picture):
    """SimMIM: the vector of a mask stands at the patches that are hidden."""

    def __init__(self) -> None:
        super().__init__(48)
        self.mask = nn.Parameter(torch.randn(WIDTH))

    def forward(self, image: Tensor, hidden: Tensor) -> Tensor:
        x = self.seer.patches(image).flatten(2).transpose(1, 2)
        share = hidden[..., None].to(x.dtype)
        x = x * (1 - share) + self.mask * share
        for block in self.seer.blocks:
            x = block(x)
        restored: Tensor = self.head(x)
        return restored


class FakeQuantized(_Picture):
    """Trained for eight bits: values are rounded and clipped between layers, and the picture before them."""

    def forward(self, image: Tensor) -> Tensor:
        x = torch.fake_quantize_per_tensor_affine(image, 1 / 255, 0, 0, 255)
        x = torch.fake_quantize_per_tensor_affine(self.seer(x), 0.05, 128, 0, 255)
        logits: Tensor = self.head(torch.fake_quantize_per_tensor_affine(x.mean(1), 0.05, 128, 0, 255))
        return logits


class Scan(_Picture):
    """A slice of a scan: a window of densities, scaled by its own extremes; no finding in an empty slice."""

    def __init__(self) -> None:
        super().__init__()
        self.seer = Seer(channels=1)

    def forward(self, image: Tensor) -> Tensor:
        window = (image * 2000 - 1000).clamp(-160, 240)
        low, high = window.amin((1, 2, 3), keepdim=True), window.amax((1, 2, 3), keepdim=True)
        logits = self.head(self.seer((window - low) / (high - low).clamp(min=1e-5)).mean(1))
        empty = (high - low)[:, :, 0, 0] < 1
        return torch.where(empty, torch.zeros(1), logits.softmax(-1))


class Rejects(_Picture):
    """The class, or -1 where no class is likely enough."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        share = self.head(self.seer(image).mean(1)).softmax(-1)
        best, label = share.max(-1)
        return share, torch.where(best > 0.5, label, torch.tensor(-1))


class Turned(_Picture):
    """A first network says whether the picture lies on its head; the second one reads it turned."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(128, 1))

    def forward(self, image: Tensor) -> Tensor:
        turned = self.first(image).sigmoid()[..., None, None] > 0.5
        x = torch.where(turned, image.flip(2, 3), image)
        logits: Tensor = self.head(self.seer(x).mean(1))
        return logits


class Pruned(_Picture):
    """Half of the patches go on: those that a small network finds important."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(WIDTH, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.seer.blocks[0](self.seer.patches(image).flatten(2).transpose(1, 2))
        weight, chosen = self.weight(x)[..., 0].sigmoid().topk(8, -1)
        kept = x.gather(1, chosen[..., None].expand(-1, -1, WIDTH)) * weight[..., None]
        rest = (x.sum(1, keepdim=True) - kept.sum(1, keepdim=True)) / 8
        logits: Tensor = self.head(self.seer.blocks[1](torch.cat([kept, rest], 1)).mean(1))
        return logits


class MaskedAttention(_Picture):
    """Mask2Former: a query looks where its mask of the layer before is; an empty mask looks everywhere."""

    def forward(self, image: Tensor) -> Tensor:
        x = self.seer(image)
        hidden = (x @ x.transpose(1, 2)).sigmoid() < 0.5
        hidden = hidden & ~hidden.all(-1, keepdim=True)
        x = self.seer.blocks[1](x, hidden[:, None].float() * -1e9)
        logits: Tensor = self.head(x.mean(1))
        return logits


class Surest(_Picture):
    """Two networks of unlike depth; the surer one answers."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))

    def forward(self, image: Tensor) -> Tensor:
        small, large = self.small(image), self.head(self.seer(image).mean(1))
        sure = small.softmax(-1).amax(-1, keepdim=True) > large.softmax(-1).amax(-1, keepdim=True)
        return torch.where(sure, small, large)


class Capacity(_Picture):
    """Switch: each patch goes to one of four experts, as long as that one has room."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, WIDTH, 48)), nn.Parameter(torch.randn(4, 48, WIDTH))

    def forward(self, image: Tensor) -> Tensor:
        x = self.seer(image)
        share = self.router(x).softmax(-1)
        chosen = nn.functional.one_hot(share.argmax(-1), 4)
        place = (chosen.cumsum(1) * chosen).amax(-1)
        kept = chosen * (place <= 5)[..., None]
        inner = torch.relu(torch.einsum("bsd,edf->bsef", x, self.up))
        made = torch.einsum("bsef,efd->bsed", inner, self.down)
        x = x + (made * (kept * share)[..., None]).sum(2)
        logits: Tensor = self.head(x.mean(1))
        return logits


class Dispatch(_Picture):
    """Experts get only their own patches: NonZero, Gather, ScatterND."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(WIDTH, 3), nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, image: Tensor) -> Tensor:
        x = self.seer(image)
        flat = x.reshape(-1, WIDTH)
        share, chosen = self.router(flat).softmax(-1).max(-1)
        mixed = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows = torch.nonzero(chosen == number)[:, 0]
            mixed = mixed.index_add(0, rows, expert(flat[rows]) * share[rows, None])
        logits: Tensor = self.head((x + mixed.reshape(x.shape)).mean(1))
        return logits


class Sentinels(nn.Module):
    """A depth camera: pixels without a measurement are 0; they are filled with the mean, and are a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.seer, self.block, self.head = Seer(channels=2), Block(), nn.Linear(WIDTH, 4)

    def forward(self, depth: Tensor) -> Tensor:
        valid = (depth > 0.01).float()
        mean = (depth * valid).sum((2, 3), keepdim=True) / valid.sum((2, 3), keepdim=True).clamp(min=1)
        filled = depth * valid + mean * (1 - valid)
        logits: Tensor = self.head(self.block(self.seer(torch.cat([filled, valid], 1))).mean(1))
        return logits


PICTURES: dict[str, tuple[type[nn.Module], Any]] = {
    "boxes above a score": (Detections, "image"),
    "a safety checker": (Safety, "image"),
    "a segmentation of the foreground": (Foreground, "image"),
    "a picture with hidden patches": (Masked, "image hidden"),
    "a network trained for eight bits": (FakeQuantized, "image"),
    "a window of a scan": (Scan, "gray"),
    "a class or none": (Rejects, "image"),
    "a picture turned if need be": (Turned, "image"),
    "half of the patches": (Pruned, "image"),
    "attention within a mask": (MaskedAttention, "image"),
    "the surer of two networks": (Surest, "image"),
    "experts with little room": (Capacity, "image"),
    "experts that get their own rows": (Dispatch, "image"),
    "depth with pixels that are missing": (Sentinels, "gray"),
}
