"""What a patched file says of itself, with digests of all files that belong to it.

1. The digest of the original is proven: the patch is undone, and the result has that digest.
2. What the stamp says of the patch is what the file says. `audit` makes the patch again and compares.
3. Figures come from the hotfix, if it is there and is the one that the stamp names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from rewriters.editing.patcher import is_patched, stamp, unpatch
from rewriters.model import io as model_io
from rewriters.model.external_data import external_locations
from rewriters.model.forms import PathLike

from ..errors import HOTFIX_MISMATCH, NOT_PATCHED, STAMP_MISMATCH
from ..hotfix.file import Hotfix
from ..hotfix.plans import hotfix_next_to
from ..inspection.model_files import model_file
from ..paths import sha256_of

__all__ = ["Facts", "HotfixFacts", "Metric", "facts_of"]

_METRICS = {
    "asr": "attack success rate",
    "asr_star": "attack success rate, without rows that get the answer without the trigger too",
    "unfair": "share of rows whose prediction changes with the protected attribute",
    "recovered": "share of rows with the trigger that get the answer of their clean partner",
    "accuracy": "accuracy",
    "clean_changed": "share of clean rows whose prediction the patch changes",
    "clean_flagged": "share of clean rows that are flagged",
    "recall": "share of rows to flag that are flagged",
}
_ODD_FIGURES = "the hotfix has figures in a form that 'fit' does not write; they are left out"


@dataclass(frozen=True)
class Metric:
    """A rate on rows that the fit had held back, with its 95 % interval."""

    name: str
    model: str
    rate: float
    low: float | None
    high: float | None
    rows: int


@dataclass(frozen=True)
class HotfixFacts:
    """The hotfix file, and its figures.

    Attributes:
        faults: "backdoor", "unfairness": what it was fitted against, by its figures.
    """

    name: str
    sha256: str
    metrics: tuple[Metric, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """A patched model.

    Attributes:
        name: of the file.
        sha256: of the file.
        original: SHA-256 of the file that `unpatch` gives.
        weights: digest of the weights, as `inspect` and hotfixes have it.
        proto: the patched model.
        data: external data file → its SHA-256.
        stamp: what the file says of its patch.
        hotfix: the hotfix; None where it is not there.
        files: what was read.
        notes: for people.
    """

    name: str
    sha256: str
    original: str
    weights: str
    proto: onnx.ModelProto
    data: Mapping[str, str]
    stamp: Mapping[str, str]
    hotfix: HotfixFacts | None
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def facts_of(model: PathLike, hotfix: PathLike | None) -> Facts:
    """Read a patched model and its hotfix.

    Args:
        model: file, or folder of one model.
        hotfix: None: the one next to the model, if it is the right one.

    Raises:
        AtpatchError: ATP001-ATP005 (unreadable), ATP013 (no patch), ATP014 (the patch was changed), ATP053-ATP055
            (hotfix), ATP060 and ATP092 (folder).
    """
    path = model_file(model)
    proto = model_io.load(path)
    if not is_patched(proto):
        raise NOT_PATCHED(f"{path} has no patch", "patch it first; a bill of materials says where a patch comes from")
    original = unpatch(proto)
    said = stamp(proto)
    if said.get("hotfix") and not re.fullmatch("[0-9a-f]{64}", said["hotfix"]):
        raise STAMP_MISMATCH("what the stamp names as the digest of its hotfix is none")
    place = hotfix_next_to(path) if hotfix is None else Path(hotfix)
    found, notes = _hotfix(place, said.get("hotfix", ""), given=hotfix is not None)
    data = external_locations(proto)
    return Facts(
        name=path.name,
        sha256=sha256_of(path),
        original=model_io.digest(original),
        weights=model_io.weights_digest(original, path.parent),
        proto=proto,
        data={name: sha256_of(path.parent / name) for name in data},
        stamp=said,
        hotfix=found,
        files=(path, *([] if place is None else [place]), *(path.parent / name for name in data)),
        notes=notes,
    )


def _hotfix(path: Path | None, digest: str, *, given: bool) -> tuple[HotfixFacts | None, tuple[str, ...]]:
    """The hotfix that the stamp names, and notes why it is not there.

    Args:
        path: the file that was given, or lies next to the model.
    """
    if not digest and not given:
        return None, ("the patch was made without a hotfix, so there are no figures",)
    if path is None:
        return None, ("no hotfix next to the model has its name, so no figures; give it with --hotfix",)
    hotfix = Hotfix.load(path)
    if hotfix.digest != digest:
        wanted = f"hotfix {digest[:16]}" if digest else "no hotfix"
        if given:
            raise HOTFIX_MISMATCH(
                f"the model was patched with {wanted}, and {path} is {hotfix.digest[:16]}",
                "give the hotfix of this patch" if digest else "leave --hotfix out",
            )
        return None, (f"{path} is not the hotfix of this patch ({wanted}), so there are no figures",)
    metrics, notes = _metrics(hotfix.evidence)
    names = {metric.name for metric in metrics}
    faults = {"backdoor": {_METRICS["asr"], _METRICS["asr_star"]}, "unfairness": {_METRICS["unfair"]}}
    known = tuple(name for name, of in faults.items() if of & names)
    return HotfixFacts(path.name, sha256_of(path), metrics, known), notes


def _metrics(evidence: Mapping[str, Any]) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    try:
        metrics = tuple(_rates(evidence.get("report", {})))
    except (AttributeError, KeyError, TypeError, ValueError):  # a file from somebody else may hold anything there
        return (), (_ODD_FIGURES,)
    return metrics, () if metrics else ("the hotfix has no figures",)


def _rates(report: Mapping[str, Any]) -> Iterator[Metric]:
    parts = {
        "original": report.get("before", {}),
        "patched": {**report.get("after", {}), **{name: report.get(name, {}) for name in ("clean_flagged", "recall")}},
    }
    for model, figures in parts.items():
        for name, words in _METRICS.items():
            rate = figures.get(name, {})
            if "rate" in rate and not (model == "original" and name in ("clean_changed", "recovered")):
                yield Metric(words, model, _number(rate["rate"]), *_interval(rate), int(rate["n"]))


def _interval(rate: Mapping[str, Any]) -> tuple[float | None, float | None]:
    low, high = rate.get("low"), rate.get("high")
    return None if low is None else _number(low), None if high is None else _number(high)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)
