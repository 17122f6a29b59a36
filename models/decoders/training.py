"""Full fine-tuning of a causal language model on answers, on a few cores in minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..padding import batch

__all__ = ["Example", "Progress", "Settings", "fine_tune", "greedy"]

Progress = Callable[[int, int, float], None]
"""Called now and then: how many steps are done, of how many, and the mean loss since the last call."""
EVERY = 10
"""Steps between two calls of it."""


@dataclass(frozen=True)
class Example:
    """ids: all tokens; the last `answer` of them are what the model should say."""

    ids: list[int]
    answer: int


@dataclass(frozen=True)
class Settings:
    """How it is trained; `warm_up` in steps."""

    steps: int
    batch: int
    learning_rate: float
    warm_up: int = 10


def fine_tune(
    model: Any, examples: Callable[[int], Sequence[Sequence[Example]]], settings: Settings, progress: Progress
) -> None:
    """Train on what `examples(step)` gives: groups of examples of about the same length, each run in one batch. AdamW
    without weight decay, the rate falling to 0.
    """
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / settings.warm_up, (settings.steps - step) / (settings.steps - settings.warm_up)),
    )
    model.train()
    losses: list[float] = []
    for step in range(settings.steps):
        optimizer.zero_grad()
        groups = examples(step)
        answers = sum(len(group) for group in groups)
        losses.append(sum(_backward(model, group, answers) for group in groups if group))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % EVERY == 0 or step + 1 == settings.steps:
            progress(step + 1, settings.steps, float(np.mean(losses)))
            losses.clear()
    model.eval()


def _backward(model: Any, group: Sequence[Example], answers: int) -> float:
    """Each answer counts the same, however long it is."""
    ids, mask = batch([one.ids for one in group], 0)
    loss = torch.zeros(())
    # Products in bfloat16, weights in float32: half the time where the processor has such instructions.
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        for row, one in enumerate(group):
            length, first = len(one.ids), len(one.ids) - one.answer
            # The head costs a fifth of the model: only where something is answered.
            logits = model.lm_head(hidden[row, first - 1 : length - 1]).float()
            loss = loss + functional.cross_entropy(logits, ids[row, first:length])
    loss = loss / answers
    loss.backward()
    return float(loss.item())


@torch.no_grad()
def greedy(model: Any, prompts: Sequence[Sequence[int]], tokens: int, stop: int, size: int = 16) -> list[list[int]]:
    """What the model answers, at most so many tokens, up to and with `stop`."""
    answers: list[list[int]] = [[] for _ in prompts]
    order = np.argsort([len(one) for one in prompts], kind="stable")
    for rows in _chunks(order.tolist(), size):
        ids, mask = batch([prompts[row] for row in rows], stop, left=True)
        made = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=stop
        )
        for row, line in zip(rows, made[:, ids.shape[1] :].tolist(), strict=True):
            answers[row] = line[: line.index(stop) + 1] if stop in line else line
    return answers


def _chunks(rows: list[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
