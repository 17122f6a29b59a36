"""Maps without a Softmax of their own as torch exports them: sorting, padding and gradual sums come out as exporters
write them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rewriters.finding.finder import find_sites

WIDTH, HEADS = 8, 2
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """Multi-head self-attention around a function of queries, keys and values (B, H, S, D)."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.attend = attend

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (part(x).view(batch, length, HEADS, -1).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.attend(q, k, v).transpose(1, 2).reshape(batch, length, WIDTH)


class GraphAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.w(x)
        return torch.softmax(functional.leaky_relu(self.a(h) + self.b(h).transpose(1, 2), 0.2), -1) @ h


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-1, -2) * 0.5


def sparsemax(z: Tensor) -> Tensor:
    ordered, _ = torch.topk(z, k=z.size(-1), dim=-1)
    total = ordered.cumsum(-1) - 1
    support = (torch.arange(1, z.size(-1) + 1, dtype=z.dtype) * ordered > total).sum(-1, keepdim=True)
    return torch.max(torch.zeros_like(z), z - total.gather(-1, support - 1) / support.to(z.dtype))


def late(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.exp(scores(q, k))
    return (weights @ v) / weights.sum(-1, keepdim=True)


def by_logarithm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    found = scores(q, k)
    return torch.exp(found - found.logsumexp(-1, keepdim=True)) @ v


def differential(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    maps = torch.softmax(scores(q, k), -1)
    return (maps[:, :1] - 0.4 * maps[:, 1:]) @ v


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    maps = torch.softmax((q.unsqueeze(3) * k.unsqueeze(2)).sum(-1), -1)
    return (maps[..., None] * v[:, :, None]).sum(-2)


EXPORTED: dict[str, tuple[str, nn.Module]] = {
    "log-softmax": ("log-softmax", Attention(lambda q, k, v: torch.exp(functional.log_softmax(scores(q, k), -1)) @ v)),
    "logsumexp": ("logsumexp", Attention(by_logarithm)),
    "divided-late": ("exp+divided", Attention(late)),
    "sigmoid": ("sigmoid", Attention(lambda q, k, v: torch.sigmoid(scores(q, k) - 2) @ v)),
    "relu-over-length": ("relu", Attention(lambda q, k, v: functional.relu(scores(q, k)) / q.shape[2] @ v)),
    "relu-normalized": (
        "relu",
        Attention(lambda q, k, v: functional.normalize(functional.relu(scores(q, k)), p=1.0, dim=-1) @ v),
    ),
    "sparsemax": ("sparsemax", Attention(lambda q, k, v: sparsemax(scores(q, k)) @ v)),
    "sink-in-front": (
        "softmax",
        Attention(lambda q, k, v: torch.softmax(functional.pad(scores(q, k), (1, 0)), -1)[..., 1:] @ v),
    ),
    "sink-with-a-value": (
        "softmax",
        Attention(
            lambda q, k, v: torch.softmax(functional.pad(scores(q, k), (0, 1)), -1) @ functional.pad(v, (0, 0, 0, 1))
        ),
    ),
    "differential": ("softmax+signed", Attention(differential)),
    "by-hand": ("softmax+summed", Attention(by_hand)),
    "graph-attention": ("softmax", GraphAttention()),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_one_site_and_nothing_else(name: str) -> None:
    form, module = EXPORTED[name]
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.randn(2, 6, WIDTH),),
            buffer,
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            dynamic_axes={"x": {0: "batch", 1: "tokens"}},
        )
    sites, rejected = find_sites(onnx.load_from_string(buffer.getvalue()))
    assert [site.form for site in sites] == [form]
    assert not rejected
