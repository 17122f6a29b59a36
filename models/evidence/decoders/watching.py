"""A Llama of transformers whose keys and values can be healed, and whose answer row can be read.

Healing: each token gets the key (before rotary) and the value of the token that `source` names, at every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...padding import batch

__all__ = ["Watched", "source"]

Floats = NDArray[np.float32]
BATCH = 8


def source(flagged: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(K,) whose key and value each token gets: its own; where it is flagged those of the token to its left, or behind
    a flagged token those of the first one, which is never flagged.
    """
    flags = flagged.copy()
    flags[0] = False
    found = np.arange(len(flags))
    for at in np.flatnonzero(flags):
        found[at] = 0 if flags[at - 1] else at - 1
    return found


class Watched:
    """Runs prompts of a causal language model, the shortest first, `BATCH` at a time.

    Args:
        model: with eager attention, in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        config = model.config
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self._groups = config.num_key_value_heads
        self._source: torch.Tensor | None = None
        self._values: list[torch.Tensor] = []
        for layer in model.model.layers:
            layer.self_attn.k_proj.register_forward_hook(self._heal)
            layer.self_attn.v_proj.register_forward_hook(self._heal_value)

    def answers(self, prompts: Sequence[Sequence[int]], sources: Sequence[NDArray[np.int64]] | None = None) -> Floats:
        """(N, V) scores of the next token."""
        return np.stack([scores for scores, _ in self._all(prompts, sources, features=False)])

    def features(self, prompts: Sequence[Sequence[int]]) -> tuple[Floats, list[Floats]]:
        """Scores as above; and for each prompt (K, layers, 2 · heads): the answer row's attention × K, log1p, and the
        logarithms of the value norms.
        """
        found = self._all(prompts, None, features=True)
        return np.stack([scores for scores, _ in found]), [columns for _, columns in found]

    @torch.no_grad()
    def _all(
        self, prompts: Sequence[Sequence[int]], sources: Sequence[NDArray[np.int64]] | None, *, features: bool
    ) -> list[tuple[Any, Any]]:
        found: list[tuple[Any, Any]] = [(None, None)] * len(prompts)
        order = np.argsort([len(one) for one in prompts], kind="stable")
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            ids, mask = batch([prompts[row] for row in rows], 0)
            self._source = None if sources is None else _padded([sources[row] for row in rows], ids.shape[1])
            self._values = []
            out = self._model.model(input_ids=ids, attention_mask=mask, output_attentions=features)
            last, places = mask.sum(1) - 1, torch.arange(len(rows))
            scores = self._model.lm_head(out.last_hidden_state[places, last]).numpy()
            columns = self._columns(out.attentions, last, mask) if features else [None] * len(rows)
            for row, *one in zip(rows, scores, columns, strict=True):
                found[row] = (one[0], one[1])
        self._source = None
        return found

    def _columns(self, attentions: Any, last: torch.Tensor, mask: torch.Tensor) -> list[Floats]:
        places = torch.arange(len(last))
        rows = torch.stack([one[places, :, last] for one in attentions], 1)  # B, layers, heads, K
        norms = torch.stack([one.unflatten(-1, (self._groups, -1)).norm(dim=-1) for one in self._values], 1)
        norms = norms.repeat_interleave(self.heads // self._groups, -1).log()  # B, layers, K, heads
        return [
            torch.cat([(row[..., :count] * count).log1p().permute(2, 0, 1), norm[:, :count].transpose(0, 1)], -1)
            .numpy()
            .astype(np.float32)
            for row, norm, count in zip(rows, norms, mask.sum(1).tolist(), strict=True)
        ]

    def _heal(self, module: Any, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        if self._source is None:
            return out
        return out.gather(1, self._source[:, :, None].expand_as(out))

    def _heal_value(self, module: Any, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        healed = self._heal(module, inputs, out)
        self._values.append(healed)
        return healed


def _padded(sources: Sequence[NDArray[np.int64]], width: int) -> torch.Tensor:
    """(B, width); padding keeps its own."""
    found = torch.arange(width).repeat(len(sources), 1)
    for line, one in zip(found, sources, strict=True):
        line[: len(one)] = torch.from_numpy(one)
    return found
