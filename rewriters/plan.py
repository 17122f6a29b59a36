"""The patch plan: what is to be inserted at each site, as plain arrays and options.

This is all that passes from the packages that train and calibrate to the graph engine. Shape letters as in `sites`:
B samples, H heads, Q query rows, K key columns, D value width; F features, U hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .choices import Accept, ControlInputs, Gating, Joint, Mend, Passes

__all__ = [
    "NORM_FLOOR",
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
    "Static",
    "Statistic",
    "ValueNorms",
]

Floats = NDArray[np.float32]

NORM_FLOOR = 1e-4
"""Added to a norm before its logarithm, for values that are all zero."""


@dataclass(frozen=True)
class Static:
    """A fixed set of columns: a known protected attribute, or chosen by a test. No columns: the silent patch."""

    columns: tuple[int, ...] = ()
    kind: Literal["static"] = "static"


@dataclass(frozen=True)
class Statistic:
    """Training-free: column mass relative to uniform, as a robust z-score over the map's valid columns.

    Score of column k: (x_k - median x) / (1.4826 · MAD x + floor), with x_k the mean over heads of column mass × valid
    length.

    Attributes:
        exempt: positions of known sinks, never flagged; negative ones count back from the last valid column.
        floor: added to the scale so that a flat map does not turn noise into outliers (in multiples of uniform).
        rows: a column is judged, and compared with other judged columns, only where this many rows see it, or as many
            as there are columns if those are fewer. So a decoder judges no column by a few rows after it, and nothing
            by the single row of a decoding step.
        by_values: the score is the smaller of two, that of the mass and that of the mass × ‖value‖, relative to the
            mean norm of its head: attention sinks draw much attention and write next to nothing.
    """

    exempt: tuple[int, ...] = (0, -1)
    floor: float = 0.25
    rows: int = 1
    by_values: bool = False
    kind: Literal["statistic"] = "statistic"


@dataclass(frozen=True)
class Dense:
    """y = x · weight + bias; weight (in, out), bias (out,)."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True)
class ValueNorms:
    """How much a token writes: for each head the norm of its value after the output projection, ‖v W‖ with W (D, E).

    Its feature is log(norm + `NORM_FLOOR`), one for each of the H heads of the map.

    Attributes:
        factor: (H, D, R), or (1, D, R) for all heads, with ‖v · factor‖ = ‖v W‖. None: the norm of v itself.
    """

    factor: Floats | None = None


@dataclass(frozen=True)
class Profile:
    """Per-column features → MLP → probability; any length.

    Features of column k, in this order: for each head the mean over valid query rows, then for each probe row and head
    that row's entry; all × valid length, then log1p; with `norms` further H features; F = H · (1 + probes), or H · (2 +
    probes) with norms. They are standardized by `mean` and `std` (F,). A mean (K, F) compares every column with its own
    normal profile, for inputs of fixed length: too little attention to a place that usually gets much is invisible
    otherwise. `layers` ends in one unit; ReLU between layers, sigmoid at the end. Only rows whose number `every`
    divides count for the mean: cheaper where maps are large, and much cheaper next to a fused operator, where only
    these rows and the probe rows of the map are computed as long as nothing is flagged.
    """

    layers: tuple[Dense, ...]
    mean: Floats
    std: Floats
    probes: tuple[int, ...] = (0,)
    every: int = 1
    norms: ValueNorms | None = None
    kind: Literal["profile"] = "profile"

    @property
    def map_features(self) -> int:
        """How many of the F features are of the map; those of the norms come after them."""
        blocks = 1 + len(self.probes)
        return len(self.std) * blocks // (blocks + (self.norms is not None))


@dataclass(frozen=True)
class NormDistance:
    """A second test of a `OneClass`: how far the norms of what a column writes are from those of clean columns.

    Of the H features of `norms`, score = max(d - r - offset, 0), with d and r as in `OneClass`; d = Σ_u max(y_u, 0)²
    where it is `squared` and only `louder` columns count.

    Attributes:
        mean, weight: (H,) and (H, U), or one for each place, (K, H) and (K, H, U).
        squared, offset, rank: as in `OneClass`.
        louder: columns that write less than clean ones do not count: a trigger writes more, in many heads.
    """

    norms: ValueNorms
    mean: Floats
    weight: Floats
    squared: bool
    offset: float
    rank: int = 0
    louder: bool = False


@dataclass(frozen=True)
class OneClass:
    """What clean columns look like, and how far a column is from that; no anomalous sample is needed.

    Of the features x of `Profile`: y = (x - mean) · weight; d = Σ_u y_u, or with `squared` Σ_u y_u² (a Mahalanobis
    distance, where the weight whitens); score = max(d - r - offset, 0). One unit of score stands for clean columns e
    times rarer.

    Attributes:
        mean, weight: (F,) and (F, U), or one for each place, (K, F) and (K, F, U).
        offset: where a score starts to count.
        rank: r is the rank-th highest d of the sample's own columns (without sinks; the lowest where there are fewer):
            a column has to stand out from its neighbors too. 0: r is 0.
        exempt: as in `Statistic`.
        every: as in `Profile`.
        norms: a second test, whose score is added to that of the attention. Not one distance over both: a trigger that
            hides in one of them would be lost among the features of the other.
        tokens: graph input (B, K) with the ids of the tokens. Columns of equal tokens, sinks left out, then have their
            attention summed before log1p, count once for the rank, and have one score where sites add up theirs: a
            repeated trigger shares the attention that one of it draws.
    """

    mean: Floats
    weight: Floats
    squared: bool
    offset: float
    rank: int = 0
    exempt: tuple[int, ...] = ()
    probes: tuple[int, ...] = (0,)
    every: int = 1
    norms: NormDistance | None = None
    tokens: str | None = None
    kind: Literal["oneclass"] = "oneclass"

    @property
    def map_features(self) -> int:
        """F."""
        return int(self.mean.shape[-1])


@dataclass(frozen=True)
class Conv:
    """A 2-D convolution, weight (out, in, h, w), bias (out,), zero padding, ReLU after it."""

    weight: Floats
    bias: Floats
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True)
class Cnn:
    """The paper's detector (eq. 5-6) for maps of fixed Q and K:
    head mean → convolutions → dense layers → K sigmoids.
    """

    convolutions: tuple[Conv, ...]
    layers: tuple[Dense, ...]
    kind: Literal["cnn"] = "cnn"


@dataclass(frozen=True)
class OnnxGraph:
    """A user's detector: a serialized ONNX model, (B, H, Q, K) float32 → (B, K) float32 scores."""

    model: bytes
    kind: Literal["onnx"] = "onnx"


Detector = Static | Statistic | Profile | OneClass | Cnn | OnnxGraph


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
        mend: two passes: "redistribute" the attention of flagged columns in the second run, "excise" those tokens from
            its request, or "heal" a decoder: a first run of only what the detectors of the groups need flags tokens,
            and in the second run, the model's own, each flagged token has key and value of its neighbor.
        accept: two passes: "always", or "flip" to keep the first run's outputs where the prediction is the same;
            healing has only one run with outputs.
        lengths: the shortest and the longest request, in valid columns, that calibration has seen; None: not known.
            Telemetry then adds the output `atpatch_length_unseen` (B,), true for requests beyond them, where a graph
            input masks the padding of all sites.
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
    mend: Mend = "redistribute"
    accept: Accept = "always"
    lengths: tuple[int, int] | None = None
    digest: str = ""
