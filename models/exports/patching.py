"""Whether an exported graph takes a patch at all its sites: silent, it changes no bit; firing, it changes something and
breaks nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from atpatch_onnx.exporters.quiet import quiet
from atpatch_onnx.exporters.subject import Array
from atpatch_onnx.exporters.transformers_models import load_subject
from atpatch_onnx.inference.sessions import session
from atpatch_onnx.patching.apply import patch_model

from .families import Row

__all__ = ["try_patches"]


def try_patches(row: Row, attention: Literal["eager", "sdpa"], source: Path, graph: Path) -> tuple[bool, bool]:
    """(silent patch bit-identical, firing patch finite and different), on all inputs that parity is checked with."""
    with quiet():
        subject, _ = load_subject(str(source), row.task, attention, "float32", row.kv_cache)
    feeds = [subject.feeds(probe).arrays() for probe in subject.probes]
    original = _run(graph, feeds)
    silent, firing = graph.with_suffix(".silent.onnx"), graph.with_suffix(".firing.onnx")
    patch_model(graph, silent, detector="static", columns=())
    patch_model(graph, firing, detector="static", columns=(1,))
    changed = _run(firing, feeds)
    return (
        all(before.tobytes() == after.tobytes() for before, after in zip(original, _run(silent, feeds), strict=True)),
        all(np.isfinite(array).all() for array in changed)
        and any(not np.array_equal(before, after) for before, after in zip(original, changed, strict=True)),
    )


def _run(path: Path, feeds: list[dict[str, Array]]) -> list[Array]:
    live = session(path, threads=1)
    known = {value.name for value in live.get_inputs()}
    return [
        output
        for feed in feeds
        for output in live.run(None, {name: array for name, array in feed.items() if name in known})
    ]
