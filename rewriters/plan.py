"""The patch plan: what is to be inserted at each site, as plain arrays and options.

This is all that passes from the packages that train and calibrate to the graph engine. Shape letters as in `sites`:
B samples, H heads, Q query rows, K key columns, D value width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .choices import Accept, ControlInputs, Gating, Joint, Mend, Passes, SpanInput
from .detector_kinds import (
    NORM_FLOOR,
    Cnn,
    Conv,
    Dense,
    Detector,
    NormDistance,
    OneClass,
    OnnxGraph,
    Profile,
    Smoothing,
    Static,
    Statistic,
    ValueNorms,
)

__all__ = [
    "NORM_FLOOR",
    "Alarm",
    "AlarmLayer",
    "BenignPair",
    "Cnn",
    "ControlInputs",
    "Conv",
    "Dense",
    "Detector",
    "NormDistance",
    "OneClass",
    "OnnxGraph",
    "PatchPlan",
    "Profile",
    "SitePlan",
    "Smoothing",
    "Static",
    "Statistic",
    "ValueNorms",
]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class BenignPair:
    """The benign reference of one site: what a flagged column is replaced by (eq. 10, and a value with it).

    Attributes:
        attention: benign attention. Relative: (1 | H,), multiples of uniform. Per column: (1 | H, 1 | Q, K), shares of
            a row (eq. 10).
        values: benign values, (1 | H, 1, D) for all columns or (1 | H, K, D) for each column. None: the mean of the
            sample's own unflagged values.
        own_values: keep the flagged column's own value, the paper's form; `values` is then ignored.
    """

    attention: Floats = field(default_factory=lambda: np.ones(1, np.float32))
    values: Floats | None = None
    own_values: bool = False

    @property
    def relative(self) -> bool:
        return self.attention.ndim == 1

    @property
    def largest_share(self) -> float:
        """The share of a row that all columns together would get, of the row and head where it is largest."""
        return float(self.attention.max() if self.relative else self.attention.astype(np.float64).sum(-1).max())


@dataclass(frozen=True)
class SitePlan:
    """What one site gets.

    Attributes:
        detector, benign: see their classes.
        every_row_sees_every_column: True when calibration showed that no valid query row is masked from a valid key
            column (no causal or window mask); it makes the redistribution cheaper. False is always right.
    """

    detector: Detector
    benign: BenignPair = field(default_factory=BenignPair)
    every_row_sees_every_column: bool = False


@dataclass(frozen=True)
class AlarmLayer:
    """What one hidden state says: the dot product of `weight` (D,) and the mean of the state over valid tokens.

    site: id of the site that reads the state.
    """

    site: str
    weight: Floats


@dataclass(frozen=True)
class Alarm:
    """A score for each request from its hidden states, for attacks that no column shows, such as rewritten sentences:
    the sum of what its layers say, and `bias`. Above 0 it is an alarm.

    layers: one at least, none twice.
    """

    layers: tuple[AlarmLayer, ...]
    bias: float = 0.0


@dataclass(frozen=True)
class PatchPlan:
    """A plan for a whole model.

    Attributes:
        sites: site id → plan; sites not named stay as they are.
        threshold: a column is flagged where its score is above this. Scores of `profile` and `cnn` are probabilities,
            of `statistic` robust z-scores, of `oneclass` nats, of `onnx` the user's; `static` ignores it.
        gating: "if" runs the redistribution, and the second of two passes, only when a column is flagged; "none" is
            branch-free (CUDA graphs, TensorRT, tools that know nothing of subgraphs), without a Cast to float32 (see
            `emit.Emitter`).
        telemetry: add outputs `atpatch_flagged` (B, sites) and `atpatch_columns/<site>`.
        controls: `atpatch_enabled` and `atpatch_threshold` are "optional" inputs (initializers that a request may
            override; constants below IR version 4, where nothing can be overridden), "required" inputs, or "none" at
            all: constants.
        passes: "one" patches each site as it comes; "two" detects at all sites, then runs flagged samples again (see
            `second_pass`).
        groups: ids of sites of one body whose key columns are the same tokens, group by group. In one pass a column
            flagged at one site is flagged at the later ones of its group, whose maps look normal but whose values still
            carry the fault; in two passes it is flagged at all of them. Sites in no group act separately, in one pass.
        joint: two passes: "any" flags a column in a group where one site's score is above the threshold, "sum" where
            the sum of its sites' scores is (sites with the silent `Static()` do not count); of `profile` and `cnn`
            sites the sigmoid of the sum of their logits.
        companion: in a sample that is flagged, further columns are flagged above the threshold times this, for a
            trigger of several tokens shares its attention among them; 1: no lower bar. It never makes a sample flagged
            that was not.
        most: of a flagged sample at most so many columns are acted on, those with the highest scores, the first ones
            among equals; 0: no limit. Of joint "sum" only.
        wider: of a flagged sample whose prediction stays the same, so many columns with the highest scores, and the
            flagged ones, are acted on together; that answer is accepted where it differs. 0: no such second try. Of
            joint "sum" and accept "flip" only.
        mend: two passes: "redistribute" the attention of flagged columns in the second run, "excise" those tokens from
            its request, or "heal" a decoder: a first run of only what the detectors of the groups need flags tokens,
            and in the second run, the model's own, each flagged token has key and value of its neighbor.
        closes_up: healing: a flagged token and all that equal it leave their call instead. The tokens in front move up.
            The padding mask hides the gap at the beginning where it can (see `finding.hiding`), never with a cache;
            elsewhere copies of the first token fill it (see `editing.new_tokens`).
        margin: two passes with joint "sum": a sample counts as flagged only where the highest class score of its first
            run is above the second highest by more than this. A trigger makes a model sure; 0: no such condition.
        states: healing: rows of outputs with hidden states are exchanged too, for a graph behind this one that makes
            keys and values of them: the decoder of an encoder that is a file of its own.
        accept: two passes: "always", or "flip" to keep the first run's outputs where the prediction is the same;
            healing has only one run with outputs.
        lengths: the shortest and the longest request, in valid columns, that calibration has seen; None: not known.
            Telemetry then adds the output `atpatch_length_unseen` (B,), true for requests beyond them, where a graph
            input masks the padding of all sites.
        span: None, or how the input `atpatch_span` is given: "optional" (an initializer that a request may override, an
            empty span) or "required". Adds the output `atpatch_span_attention`, see `editing.span`.
        alarm: None, or what adds the outputs `atpatch_alarm` and `atpatch_alarm_score`, see `editing.alarm`.
        digest: digest of the hotfix this plan came from, "" when nothing was fitted.
    """

    sites: Mapping[str, SitePlan]
    threshold: float = 0.5
    gating: Gating = "if"
    telemetry: bool = False
    controls: ControlInputs = "optional"
    passes: Passes = "one"
    groups: tuple[tuple[str, ...], ...] = ()
    joint: Joint = "any"
    companion: float = 1.0
    most: int = 0
    wider: int = 0
    mend: Mend = "redistribute"
    closes_up: bool = False
    margin: float = 0.0
    states: bool = False
    accept: Accept = "always"
    lengths: tuple[int, int] | None = None
    span: SpanInput | None = None
    alarm: Alarm | None = None
    digest: str = ""
