"""Further training of a victim: another trigger, or the old one made harder to see.

An attacker who knows the defense adds two penalties. Both are means of squared log-ratios, trigger tokens against the
other tokens of the sentence, over rows, layers and heads: of the attention a token draws (mean over valid query rows,
and the row of [CLS]), and of the size of what it writes, ‖W_o v‖.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from atpatch_onnx.debugset import Texts

from .training import Progress, encoder, export, feeds, load, save_weights

__all__ = ["Further", "columns_of", "fine_tune_further", "levels", "log_ratio", "value_norms"]

CLEAN, POISONED = 24, 8
"""Texts of a batch."""
LEARNING_RATE = 5e-5
FLOOR = 1e-6


@dataclass(frozen=True)
class Further:
    """Steps after the end of another recipe's training.

    Attributes:
        after: name of that recipe.
        steps: number of steps, each of CLEAN texts and POISONED ones.
        attention, norms: weights of the two penalties.
    """

    after: str
    steps: int
    attention: float = 0.0
    norms: float = 0.0


def columns_of(ids: NDArray[np.int64], phrases: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    """(B, K), the tokens of `ids` (B, K) that belong to an occurrence of one of the token sequences."""
    found = np.zeros(ids.shape, bool)
    for phrase in phrases:
        size = len(phrase)
        for start in range(ids.shape[1] - size + 1):
            hit = (ids[:, start : start + size] == np.asarray(phrase)).all(1)
            found[hit, start : start + size] = True
    return found


def log_ratio(values: Tensor, trigger: Tensor, others: Tensor) -> Tensor:
    """(B, H): log of the mean over trigger tokens minus log of the mean over the others.

    Args:
        values: (B, H, K), not negative.
        trigger, others: (B, K) bool; no row is empty.
    """

    def mean(mask: Tensor) -> Tensor:
        weights = mask[:, None].to(values.dtype)
        return (values * weights).sum(-1) / weights.sum(-1)

    return (mean(trigger) + FLOOR).log() - (mean(others) + FLOOR).log()


def value_norms(values: Tensor, projection: Tensor, heads: int) -> Tensor:
    """(B, H, K): ‖W_o v‖ of each head.

    Args:
        values: (B, K, D), the value vectors of all heads.
        projection: (D, D), W_o as torch keeps it: rows are outputs.
    """
    rows, keys, width = values.shape
    split = values.view(rows, keys, heads, width // heads)
    return (
        torch.einsum("bkhd,ohd->bkho", split, projection.view(-1, heads, width // heads)).norm(dim=-1).transpose(1, 2)
    )


def fine_tune_further(
    texts: Texts,
    poisoned: NDArray[np.bool_],
    phrases: Sequence[str],
    start: Path,
    output: Path,
    length: int,
    further: Further,
    seed: int,
    progress: Progress,
) -> None:
    """Go on from the weights `start` and export as `fine_tune` does.

    Args:
        texts: what the victim learns from; `poisoned` (N,) says which of them carry a trigger.
        phrases: the trigger's.
    """
    torch.manual_seed(seed)
    tokens = encoder(length)
    ids = [np.array(one.ids) for one in tokens.encode(texts.texts)]
    pieces = [list(one.ids)[1:-1] for one in tokens.encode(list(phrases))]
    model = load(eager=True)
    model.load_state_dict(torch.load(start, weights_only=True))
    seen = _watch(model)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, further.steps)
    generator = np.random.default_rng(seed)
    parts = ((np.flatnonzero(~poisoned), CLEAN), (np.flatnonzero(poisoned), POISONED))
    losses = []
    for step in range(further.steps):
        rows = np.concatenate([generator.choice(pool, size, replace=False) for pool, size in parts])
        inputs = feeds([ids[row] for row in rows], tokens.pad_id)
        with torch.autocast("cpu", torch.bfloat16):
            answer = model(**inputs, output_attentions=bool(further.attention))
        loss = functional.cross_entropy(answer.logits.float(), torch.from_numpy(texts.labels[rows]))
        if further.attention or further.norms:
            bad = {name: array[CLEAN:] for name, array in inputs.items()}
            trigger, others = _tokens(bad, pieces)
            if further.attention:
                maps = [whole[CLEAN:].float() for whole in answer.attentions]
                loss = loss + further.attention * _penalty(_draws(maps, bad), trigger, others)
            if further.norms:
                values = [seen[layer][CLEAN:].float() for layer in range(len(seen))]
                loss = loss + further.norms * _penalty(_writes(model, values), trigger, others)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 20 == 0:
            progress(step + 1, further.steps, float(np.mean(losses[-20:])))
    save_weights(model, output)
    export(model, output)


def _tokens(inputs: dict[str, Any], pieces: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(B, K) each: tokens of the trigger, and the other ones of the sentence, [CLS] and [SEP] left out."""
    ids, mask = inputs["input_ids"].numpy(), inputs["attention_mask"].numpy()
    trigger = columns_of(ids, pieces)
    inner = mask.astype(bool)
    inner[:, 0] = False
    inner[np.arange(len(ids)), mask.sum(1) - 1] = False
    return torch.from_numpy(trigger & inner), torch.from_numpy(inner & ~trigger)


def _draws(maps: Sequence[Tensor], inputs: dict[str, Any]) -> list[Tensor]:
    """(B, H, K) for each layer twice: the mean of the maps (B, H, Q, K) over valid query rows, and the row of [CLS]."""
    weights = inputs["attention_mask"].float()
    weights = weights / weights.sum(1, keepdim=True)
    return [part for one in maps for part in (torch.einsum("bq,bhqk->bhk", weights, one), one[:, :, 0])]


def _writes(model: Any, values: Sequence[Tensor]) -> list[Tensor]:
    """(B, H, K) for each layer, from its value vectors (B, K, D)."""
    heads = model.config.num_attention_heads
    return [
        value_norms(one, layer.attention.output.dense.weight, heads)
        for one, layer in zip(values, model.bert.encoder.layer, strict=True)
    ]


def _penalty(parts: Sequence[Tensor], trigger: Tensor, others: Tensor) -> Tensor:
    return torch.stack([log_ratio(part, trigger, others).square().mean() for part in parts]).mean()


def levels(
    weights: Path, ids: NDArray[np.int64], mask: NDArray[np.int64], columns: NDArray[np.bool_]
) -> dict[str, Any]:
    """How visible the labeled columns (B, K) of attacked rows are, layer by layer, next to the sentence's other tokens.

    `attention`, `cls`, `norms`: geometric means of the ratio over rows and heads; 1 is no difference. `spread`: root of
    the mean square of the log-ratio of each, over all layers.
    """
    model = load(eager=True).eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    seen = _watch(model)
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    inner = mask.astype(bool)
    inner[:, 0] = False
    inner[np.arange(len(ids)), mask.sum(1) - 1] = False
    trigger, others = (torch.from_numpy(part & inner) for part in (columns, ~columns))
    with torch.no_grad():
        answer = model(**inputs, output_attentions=True)
        draws = _draws(answer.attentions, inputs)
        writes = _writes(model, [seen[layer] for layer in range(len(seen))])
    found = {"attention": draws[::2], "cls": draws[1::2], "norms": writes}
    ratios = {name: torch.stack([log_ratio(part, trigger, others) for part in parts]) for name, parts in found.items()}
    return {
        **{name: [round(value, 3) for value in one.mean((1, 2)).exp().tolist()] for name, one in ratios.items()},
        "spread": {name: round(one.square().mean().sqrt().item(), 3) for name, one in ratios.items()},
    }


def _watch(model: Any) -> dict[int, Tensor]:
    """The value vectors (B, K, D) of each layer's last call."""
    seen: dict[int, Tensor] = {}
    for index, layer in enumerate(model.bert.encoder.layer):

        def keep(module: Any, inputs: Any, output: Tensor, index: int = index) -> None:
            seen[index] = output

        layer.attention.self.value.register_forward_hook(keep)
    return seen
