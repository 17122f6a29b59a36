"""`cnn`: the paper's detector (eq. 5-6).

Head mean → convolutions → dense layers → one sigmoid for each column. Fixed Q and K.
"""

from __future__ import annotations

from ...emit import Emitter
from ...plan import Cnn
from ..context import MapContext
from .profile import dense_stack

__all__ = ["logits", "scores"]


def scores(e: Emitter, context: MapContext, detector: Cnn) -> str:
    """(B, K) probabilities."""
    return e.op("Sigmoid", logits(e, context, detector), role="score")


def logits(e: Emitter, context: MapContext, detector: Cnn) -> str:
    """(B, K), before the sigmoid."""
    x = e.reduce("Mean", context.map, 1, role="head_mean")
    for layer in detector.convolutions:
        pads = [layer.padding] * 4
        x = e.op("Conv", x, e.constant(layer.weight), e.constant(layer.bias), pads=pads, strides=[layer.stride] * 2)
        x = e.op("Relu", x)
    return dense_stack(e, e.op("Flatten", x, axis=1), detector.layers)
