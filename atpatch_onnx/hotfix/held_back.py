"""The figures of held-back rows in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["held_back"]


def held_back(evidence: Mapping[str, Any]) -> str:
    """The figures before and after on held-back rows, which no choice was made on."""
    report = evidence.get("report", {})
    before, after = report.get("before", {}), report.get("after", {})
    figures = [
        f"{name} {before[key]['rate']:.1%} → {after[key]['rate']:.1%}"
        for key, name in (("asr_star", "ASR*"), ("unfair", "UF"), ("accuracy", "accuracy"))
        if "rate" in before.get(key, {}) and "rate" in after.get(key, {})
    ]
    flagged = report.get("clean_flagged", {})
    return ", ".join([*figures, *([f"clean rows flagged {flagged['rate']:.1%}"] if "rate" in flagged else [])])
