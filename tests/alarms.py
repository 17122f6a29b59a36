"""A tiny classifier whose patch has an alarm that a test can raise: feature 0, as its mean over tokens, is above 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.plan import Alarm, AlarmLayer, PatchPlan, SitePlan, Static

from .comparison.case import WIDTH, classifier, rows

__all__ = ["BAR", "raising", "save_alarmed"]

BAR = 1.0


def save_alarmed(folder: Path, **options: Any) -> tuple[Path, Path]:
    """Write model.onnx and alarmed.onnx, a patch that flags nothing and has the alarm; `options` of the plan."""
    model = classifier()
    sites = find_sites(model)[0]
    weight = np.eye(WIDTH, dtype=np.float32)[0]
    plan = PatchPlan(
        {site.id: SitePlan(Static()) for site in sites},
        alarm=Alarm((AlarmLayer(sites[0].id, weight),), bias=-BAR),
        **options,
    )
    original, patched = folder / "model.onnx", folder / "alarmed.onnx"
    onnx.save_model(model, original)
    onnx.save_model(patch(model, plan, sites), patched)
    return original, patched


def raising(*alarms: bool, seed: int = 0) -> np.ndarray:
    """Rows x (B, 6, 8) that raise the alarm, or do not."""
    x = rows(len(alarms), seed)
    x[:, :, 0] = np.where(alarms, 3.0, -3.0)[:, None]
    return x
