"""A chat of a decoder, call after call with its caches, and what torch says of the same chat."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache

import numpy as np
import onnx
import torch

from rewriters.finding.finder import find_sites
from rewriters.plan import Detector, PatchPlan, SitePlan
from rewriters.sites import Site

from ..decoders import HEADS, PAST, PRESENT, VOCABULARY, WIDTH, causal_lm, decoder, step
from ..graphs import session
from .healed import healed, source_of

Answers = list[dict[str, np.ndarray]]
Moved = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Tokens, flags and valid tokens (B, S) of a call → the tokens that it is to be answered like."""
FAMILIES = ("gpt2", "llama", "qwen3")
BATCH, LENGTHS = 3, (6, 3, 1, 1, 1)
"""A prompt, a second turn, three decoding steps."""
PADDED = 2
"""Padding on the left of the second sample."""


@cache
def searched(family: str) -> tuple[onnx.ModelProto, tuple[Site, ...]]:
    model = decoder(True, family)
    return model, find_sites(model)[0]


def healing(sites: tuple[Site, ...], detector: Detector, **options: object) -> PatchPlan:
    """What these sites flag together is healed; the flags are outputs."""
    group = tuple(site.id for site in sites)
    plans = {name: SitePlan(detector) for name in group}
    options = {"telemetry": True, **options}
    return PatchPlan(plans, passes="two", groups=(group,), mend="heal", **options)  # type: ignore[arg-type]


def flags_of(answer: dict[str, np.ndarray]) -> np.ndarray:
    """(B, S), those of the first site."""
    return next(array for name, array in answer.items() if name.startswith("atpatch_columns/"))


def chat(
    model: onnx.ModelProto, lengths: tuple[int, ...] = LENGTHS, padding: tuple[int, ...] = (), **controls: object
) -> Answers:
    """Calls one after another, each with the cache that the last one gave; every answer has its `input_ids` too.

    Args:
        padding: further columns of the second sample that are padding.
    """
    live = session(model)
    accepted = {value.name for value in (*live.get_inputs(), *live.get_overridable_initializers())}
    names = [value.name for value in live.get_outputs()]
    tokens = np.random.default_rng(0).integers(3, VOCABULARY, (BATCH, sum(lengths)))
    past = {name: np.zeros((BATCH, HEADS, 0, WIDTH // HEADS), np.float32) for name in PAST}
    answers, done = [], 0
    for length in lengths:
        ids = tokens[:, done : done + length]
        done += length
        mask = np.ones((BATCH, done), np.int64)
        mask[1, [column for column in (*range(PADDED), *padding) if column < done]] = 0
        feeds = {"input_ids": ids, "attention_mask": mask, **past, **controls}
        feeds["use_cache_branch"] = np.array([done > length])  # of a merged decoder
        found = live.run(names, {name: array for name, array in feeds.items() if name in accepted})
        answers.append({**dict(zip(names, found, strict=True)), "input_ids": ids, "attention_mask": mask})
        past = {name.replace("present", "past_key_values"): answers[-1][name] for name in PRESENT}
    return answers


def in_torch(family: str, answers: Answers, moved: Moved | None) -> Answers:
    """The same calls, with the flags of these answers, in the torch model: healed there, or with moved tokens."""
    model, past, expected = causal_lm(family), [], []
    for answer in answers:
        ids, mask, flags = answer["input_ids"], answer["attention_mask"], flags_of(answer)
        valid = mask[:, -flags.shape[1] :] != 0
        ids = ids if moved is None else moved(ids, flags, valid)
        own = nullcontext() if moved else healed(model, source_of(flags, valid, begins=not past), WIDTH)
        with torch.no_grad(), own:
            result = step(model, torch.from_numpy(ids), torch.from_numpy(mask), *past)
        past = list(result[1:])
        expected.append(dict(zip(["logits", *PRESENT], (value.numpy() for value in result), strict=True)))
    return expected


def assert_agree(family: str, answers: Answers, moved: Moved | None = None) -> None:
    """With the torch model; padding is not compared."""
    for call, (got, want) in enumerate(zip(answers, in_torch(family, answers, moved), strict=True)):
        real = got["attention_mask"] != 0
        new = real[:, -got["input_ids"].shape[1] :]
        scale = max(np.abs(want["logits"]).max(), 1)
        np.testing.assert_allclose(
            got["logits"][new], want["logits"][new], atol=1e-4 * scale, rtol=0, err_msg=f"{call}"
        )
        for name in PRESENT:
            assert np.abs(got[name] - want[name]).swapaxes(1, 2)[real].max() < 1e-4 * np.abs(want[name]).max(), (
                call,
                name,
            )
