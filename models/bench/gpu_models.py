"""The models of `gpu`, built once into the cache, with a hotfix each.

Weights and detectors are random: what they compute with does not matter for their speed, and that a patch does the same
on every device can be seen with any detector. Every site of an encoder is patched in one pass. A decoder is healed,
with detectors that read the answer row of its first layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.benchmark.inputs import random_inputs
from atpatch_onnx.hotfix.file import Hotfix, HotfixSite
from atpatch_onnx.patching.apply import patch_model
from rewriters.choices import Gating
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io
from rewriters.plan import BenignPair, Dense, Profile, SitePlan
from rewriters.sites import Site

from .builders import build, folder
from .group_query import Decoder, save
from .scale import HIDDEN

__all__ = ["FULL", "SEED", "TINY", "GpuModel", "built", "fitted", "patched", "request"]

SEED = 0
DETECTING = 6
"""First layers of the decoder that have a detector, as of the trained one in models/results/DECODERS.md."""

SMOLLM2_360M = Decoder(layers=32, width=960, inner=2560, heads=15, key_heads=5, words=49152, positions=2048)
TINY_DECODER = Decoder(layers=2, width=64, inner=48, heads=4, key_heads=2, words=99, positions=64)


@dataclass(frozen=True)
class GpuModel:
    """A model and what is asked of it.

    Attributes:
        title: for people.
        name: of its file in the cache.
        shapes: by name, sizes by symbolic axis.
        decoder: its sizes, where it is one; else the name is a key of `builders.BUILDERS`.
    """

    title: str
    name: str
    shapes: Mapping[str, Mapping[str, int]]
    decoder: Decoder | None = None

    @property
    def tolerance(self) -> float:
        """Between devices, of the largest output: orders of summation differ."""
        return 2e-2 if self.decoder else 1e-3


def _texts(*sizes: tuple[int, int]) -> dict[str, dict[str, int]]:
    return {f"{batch} × {length}": {"batch": batch, "sequence": length} for batch, length in sizes}


def _calls(prompt: int) -> dict[str, dict[str, int]]:
    """A prompt, and a step of generation behind it."""
    sizes = {"batch": 1, "total_sequence": prompt}
    return {
        f"prompt of {prompt}": {**sizes, "sequence": prompt, "past_sequence": 0},
        f"step behind {prompt - 1}": {**sizes, "sequence": 1, "past_sequence": prompt - 1},
    }


FULL: tuple[GpuModel, ...] = (
    GpuModel("BERT-base, random weights", "bert-base-peaked", _texts((1, 128), (8, 128))),
    GpuModel("ViT-base, random weights", "vit-base-peaked", {"1": {"batch": 1}, "8": {"batch": 8}}),
    GpuModel(
        "decoder of SmolLM2-360M's shape, float16, GroupQueryAttention, random weights",
        "group-query-360m",
        _calls(512),
        SMOLLM2_360M,
    ),
)
TINY: tuple[GpuModel, ...] = (
    GpuModel("tiny BERT", "bert-tiny", _texts((2, 9))),
    GpuModel("tiny ViT", "vit-tiny", {"2": {"batch": 2}}),
    GpuModel("tiny decoder", "group-query-tiny", _calls(8), TINY_DECODER),
)


def built(model: GpuModel) -> Path:
    """The graph in the cache."""
    if model.decoder is None:
        return build(model.name)
    path = folder() / f"{model.name}.onnx"
    if not path.is_file():
        draft = path.with_suffix(".draft")
        draft.mkdir(exist_ok=True)
        save(model.decoder, draft / path.name, SEED)
        for file in sorted(draft.iterdir(), reverse=True):  # the model itself comes last
            file.replace(path.with_name(file.name))
        draft.rmdir()
    return path


def fitted(model: GpuModel, path: Path) -> Hotfix:
    """The hotfix, made anew each time, with the same seed."""
    proto = model_io.load(path)
    heals = model.decoder is not None
    sites = find_sites(proto)[0][: DETECTING if heals else None]
    generator = np.random.default_rng(SEED)
    kept = [
        HotfixSite(site.id, layer, site.heads, site.fingerprint, _plan(site, generator, answer_row=heals))
        for layer, site in enumerate(sites)
    ]
    group = tuple(site.id for site in sites)
    made = Hotfix(tuple(kept), 0.5, model_io.weights_digest(proto, path.parent), groups=(group,))
    return replace(made, calls="cached", passes="two", joint="sum", mend="heal") if heals else made


def _plan(site: Site, generator: np.random.Generator, *, answer_row: bool) -> SitePlan:
    heads, width = site.heads or 1, site.head_dim or 1
    features = heads if answer_row else 2 * heads

    def dense(inputs: int, outputs: int) -> Dense:
        # Small enough for scores that differ: far from 0 the sigmoid is 1 for all columns.
        weight = generator.standard_normal((inputs, outputs)) * inputs**-0.5
        return Dense(weight.astype(np.float32), np.zeros(outputs, np.float32))

    layers = (dense(features, HIDDEN), dense(HIDDEN, 1))
    probes = () if answer_row else (0,)
    mean, std = np.zeros(features, np.float32), np.ones(features, np.float32)
    detector = Profile(layers, mean, std, probes=probes, answer_row=answer_row)
    return SitePlan(detector, BenignPair(np.ones(heads, np.float32), np.zeros((heads, 1, width), np.float32)))


def patched(path: Path, hotfix: Hotfix, output: Path, gating: Gating, *, telemetry: bool = False) -> int:
    """Write the patched model; its number of nodes.

    `--target cuda` chooses gating "none" in one pass; of two passes it has to be asked for.
    """
    done = patch_model(path, output, hotfix=hotfix, target="cuda", gating=gating, telemetry=telemetry)
    return done.nodes_after


def request(path: Path, sizes: Mapping[str, int], seed: int) -> dict[str, NDArray[np.generic]]:
    """Random inputs; of a batch of texts one is padded."""
    inputs = random_inputs(model_io.load(path), sizes, seed)
    mask = inputs.get("attention_mask")
    if mask is not None and len(mask) > 1:
        mask[-1, -(mask.shape[1] // 3) :] = 0
    return inputs
