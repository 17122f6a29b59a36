"""The demo's digits, and what a hotfix is worth on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atpatch_onnx.inference.datasets import load_dataset
from models.evidence.answers import Asked, judge as judged
from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io

DIGITS = Path(__file__).parents[2] / "atpatch_onnx" / "demo" / "digits"


def judge(model_path: Path, hotfix: Any, clean: Path, triggered: Path) -> dict[str, Any]:
    """Figures of a patched model against the original, both in onnxruntime."""
    model = model_io.load(model_path)
    sites, _ = find_sites(model)
    patched = patch(model, hotfix.plan(sites, model_io.weights_digest(model, model_path.parent), telemetry=True), sites)
    data = load_dataset(clean), load_dataset(triggered)
    before, *after = (
        Asked(proto, model_path.parent, data[0], threads=1).all(part).predictions
        for proto, part in ((model, data[0]), (patched, data[0]), (patched, data[1]))
    )
    return judged(*data, before, *after)
