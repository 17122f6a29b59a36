"""Detectors as subgraphs: canonical map (B, H, Q, K) → scores (B, K), float32; one module for each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...emit import Emitter
from ...plan import Cnn, Detector, OneClass, OnnxGraph, Profile, Smoothing, Static, Statistic
from ..context import MapContext
from . import cnn, oneclass, onnx_graph, profile, static, statistic

__all__ = ["evidence", "gives_logits", "scores"]

_LOGITS: Mapping[type, Callable[[Emitter, MapContext, Any], str]] = {Profile: profile.logits, Cnn: cnn.logits}
"""Kinds whose scores are probabilities → function that emits them before the sigmoid."""


def evidence(e: Emitter, context: MapContext, detector: Detector) -> str:
    """What a site adds to the sum over sites, (B, K): logits if the kind `gives_logits`, else its scores."""
    return _LOGITS.get(type(detector), scores)(e, context, detector)


def gives_logits(detector: Detector) -> bool:
    """Whether the scores are probabilities; these are summed before the sigmoid."""
    return type(detector) in _LOGITS


def scores(e: Emitter, context: MapContext, detector: Detector) -> str:
    """Emit a detector of any kind; the result may score padding columns, which the caller masks."""
    match detector:
        case Static():
            return static.scores(e, context, detector)
        case Statistic():
            return statistic.scores(e, context, detector)
        case Profile():
            return profile.scores(e, context, detector)
        case OneClass():
            return oneclass.scores(e, context, detector)
        case Cnn():
            return cnn.scores(e, context, detector)
        case OnnxGraph():
            return onnx_graph.scores(e, context, detector)
        case Smoothing():
            raise TypeError("smoothing judges rows, and gives no scores of columns")
