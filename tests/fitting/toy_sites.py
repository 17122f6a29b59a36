"""Sites of the toy models with trained detectors, before anything is chosen."""

from __future__ import annotations

import functools
from pathlib import Path

from atpatch_onnx.fitting.joint_training import sites_together
from atpatch_onnx.fitting.recipes import make_recipe
from atpatch_onnx.fitting.splits import join, split
from atpatch_onnx.fitting.training import Context, TrainedSite, anchor_sites, train_sites
from atpatch_onnx.inference.capture import Capture
from atpatch_onnx.inference.datasets import as_dataset
from rewriters.finding.finder import find_sites

__all__ = ["MASK", "trained_together"]

MASK = "attention_mask"


@functools.cache
def trained_together(kind: str = "profile", every: int = 1) -> tuple[Context, list[TrainedSite], list[TrainedSite]]:
    """A toy's sites with detectors of their own, and together; texts for profiles, padding left out, one fixed length
    for a cnn.
    """
    from ..toy_backdoor import LENGTH, toy as train_toy  # needs torch, without which its tests are skipped

    padded = kind == "profile"
    toy, mask = train_toy(padded=padded), MASK if padded else None
    data = join(as_dataset(toy.debug), as_dataset(toy.clean))
    context = Context(toy.model, Path(), data, split(data, 0), 0, 0.005, 1, lambda step, done, total: None, mask, every)
    sites, _ = find_sites(toy.model)
    capture = Capture(toy.model, Path(), sites, data, LENGTH, 1, mask)
    made = make_recipe(kind, capture.sites, len(context.parts.train.rows), LENGTH, 0, every)
    alone = anchor_sites(context, capture, made, train_sites(context, capture, made))
    return context, alone, sites_together(context, capture, made, alone)
