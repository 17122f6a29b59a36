"""The paper's form in torch, for scale: attention maps caught by hooks, Algorithm 1 around the forward pass.

1. A first pass collects the maps of all layers; the detector (eq. 5-6: head mean → convolutions → dense layers, one for
   all layers) scores every column of every layer.
2. Nothing above τ: its outputs are the answer.
3. Else a second pass puts benign attention into the flagged column of each layer and rescales the others row by row
   (eq. 11) on the whole map, with the token's own values.

The hook is transformers' own: an attention function registered by name. The original runs through the same function, so
that only the detector, eq. 11 and the second pass are compared. Sizes of the network are not in the paper; they are
those of our `cnn` detector.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from atpatch_onnx.benchmark.paired_latency import Request
from atpatch_onnx.exporters.quiet import quiet
from atpatch_onnx.fitting.detectors.cnn import CHANNELS, HIDDEN

from .builders import source

__all__ = ["PaperForm", "load"]

NAME = "atpatch_paper"
NEVER, ALWAYS = 2.0, -1.0
"""Values of τ that no probability is above, and that each is."""
EPSILON = 1e-6

_AUTO = {"bert-base": "AutoModelForSequenceClassification", "vit-base": "AutoModelForImageClassification"}


def load(name: str) -> Any:
    """The torch model that a graph of the table was exported from."""
    with quiet():
        return getattr(transformers, _AUTO.get(name, "AutoModel")).from_pretrained(source(name))


class PaperForm:
    """A torch model whose attention can be watched and changed.

    Args:
        model: of transformers; its attention implementation is replaced.
        feeds: the request, as the graph takes it.
    """

    def __init__(self, model: Any, feeds: Mapping[str, NDArray[Any]]) -> None:
        transformers.AttentionInterface.register(NAME, self._attention)
        transformers.AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
        self._model = model.eval()
        self._model.set_attn_implementation(NAME)
        self._feeds = {key: torch.from_numpy(array) for key, array in feeds.items()}
        self._maps: list[Tensor] | None = None
        self._flagged: list[Tensor] | None = None
        self._layer = 0
        self._maps = []
        self.original()
        keys = self._maps[0].shape[-1]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self._detector = _Detector(keys).eval()
        self._benign = torch.full((keys, 1), 1 / keys)
        self._maps = None

    def original(self) -> Any:
        """The model alone."""
        with torch.inference_mode():
            return self._model(**self._feeds)

    def request(self, flagged: bool) -> Request:
        """The model with Algorithm 1; flagged: the likeliest column of every sample and layer is."""
        threshold = ALWAYS if flagged else NEVER
        return lambda: self._algorithm(threshold)

    def _algorithm(self, threshold: float) -> Any:
        with torch.inference_mode():
            self._maps = []
            outputs, maps = self._model(**self._feeds), self._maps
            self._maps = None
            scores = [self._detector(one) for one in maps]
            hits = [score.max(-1) for score in scores]
            if not any((hit.values > threshold).any() for hit in hits):
                return outputs
            self._flagged, self._layer = [hit.indices for hit in hits], 0
            outputs = self._model(**self._feeds)
            self._flagged = None
            return outputs

    def _attention(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
        if mask is not None:
            scores = scores + mask
        weights = functional.softmax(scores, -1)
        if self._maps is not None:
            self._maps.append(weights)
        if self._flagged is not None:
            weights = self._redistribute(weights, self._flagged[self._layer])
            self._layer += 1
        return (weights @ value).transpose(1, 2).contiguous(), None

    def _redistribute(self, weights: Tensor, column: Tensor) -> Tensor:
        """Eq. 11 for one column a sample, (B,)."""
        chosen = functional.one_hot(column, weights.shape[-1]).bool()[:, None, None, :]
        benign = self._benign[column][:, None, :, None]
        own = weights.masked_fill(~chosen, 0).sum(-1, keepdim=True)
        return torch.where(chosen, benign, weights * (1 - benign) / (1 - own + EPSILON))


class _Detector(nn.Module):
    """(B, H, K, K) → probabilities (B, K)."""

    def __init__(self, keys: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise((1, *CHANNELS)))
        side = -(-keys // 2 ** len(CHANNELS))
        self.dense = nn.Sequential(
            nn.Linear(CHANNELS[-1] * side * side, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, keys), nn.Sigmoid()
        )

    def forward(self, maps: Tensor) -> Tensor:
        x = maps.mean(1, keepdim=True)
        for convolution in self.convolutions:
            x = functional.relu(convolution(x))
        scores: Tensor = self.dense(x.flatten(1))
        return scores
