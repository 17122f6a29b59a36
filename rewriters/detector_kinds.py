"""The kinds of detectors, as plain arrays and options.

Shape letters as in `sites`: B samples, H heads, Q query rows, K key columns, D value width; F features, U hidden units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NORM_FLOOR",
    "Cnn",
    "Conv",
    "Dense",
    "Detector",
    "NormDistance",
    "OneClass",
    "OnnxGraph",
    "Profile",
    "Smoothing",
    "Static",
    "Statistic",
    "ValueNorms",
    "ids_read",
]

Floats = NDArray[np.float32]

NORM_FLOOR = 1e-4
"""Added to a norm before its logarithm, for values that are all zero."""
MOST_LENGTH = 1 << 14
"""Columns up to which a factor may depend on the length: a patch holds a number for each."""


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

    With `answer_row` a column has one feature for each head: its entry in the answer row, × the number of columns that
    this row sees, log1p; then `norms`. The answer row is where a decoder's answer is read: the last valid row of the
    request. The first valid column (an attention sink) and columns that the row does not see score -inf. Of maps whose
    rows are the last tokens of their columns; without probes, and `every` is 1. With `seeing_rows` 2 · H features more
    follow those of the row: mean and maximum of the same over all valid rows that see the column, for graphs whose
    calls have the whole request. Of a trigger of many words the answer row may see little, where other rows read them.

    With `tokens`, a graph input (B, K) with ids, columns of equal tokens share the highest of their scores where sites
    are joined: copies of a trigger share the attention, and some of them get too little to be flagged by themselves.
    Whether a sample is flagged does not depend on it.
    """

    layers: tuple[Dense, ...]
    mean: Floats
    std: Floats
    probes: tuple[int, ...] = (0,)
    every: int = 1
    norms: ValueNorms | None = None
    answer_row: bool = False
    tokens: str | None = None
    seeing_rows: bool = False
    kind: Literal["profile"] = "profile"

    @property
    def map_features(self) -> int:
        """How many of the F features are of the map; those of the norms come after them."""
        blocks = self.map_blocks
        return len(self.std) * blocks // (blocks + (self.norms is not None))

    @property
    def map_blocks(self) -> int:
        """Features of the map that each head has."""
        return 1 + len(self.probes) + 2 * self.seeing_rows


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
        every, answer_row: as in `Profile`.
        norms: a second test, whose score is added to that of the attention. Not one distance over both: a trigger that
            hides in one of them would be lost among the features of the other.
        tokens: graph input (B, K) with the ids of the tokens. Columns of equal tokens, sinks left out, then have their
            attention summed before log1p, count once for the rank, and have one score where sites add up theirs: a
            repeated trigger shares the attention that one of it draws.
        by_length: (M, 2), rising numbers of valid columns, and the factor by which scores of a request of that length
            are multiplied. Between two lengths it changes evenly, beyond the first and the last it stays. Scores grow
            with the length, and one threshold is for all of them.
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
    answer_row: bool = False
    by_length: Floats | None = None
    kind: Literal["oneclass"] = "oneclass"

    @property
    def map_features(self) -> int:
        """F."""
        return int(self.mean.shape[-1])

    def factors(self, lengths: NDArray[np.integer[Any]]) -> Floats:
        """What `by_length` says of some numbers of valid columns, (N,)."""
        known = np.ones((1, 2), np.float32) if self.by_length is None else self.by_length
        return np.asarray(np.interp(lengths, known[:, 0], known[:, 1]), np.float32)

    @property
    def fits_lengths(self) -> bool:
        """Whether `by_length` is as it should be, up to `MOST_LENGTH` columns."""
        known = self.by_length
        if known is None:
            return True
        if known.ndim != 2 or known.shape[1] != 2 or not len(known) or not np.isfinite(known).all():
            return False
        lengths, factors = known.T
        whole = (lengths == np.rint(lengths)).all() and (np.diff(lengths) > 0).all()
        return bool(whole and lengths[0] >= 1 and lengths[-1] <= MOST_LENGTH and (factors > 0).all())

    @property
    def map_blocks(self) -> int:
        """As of `Profile`."""
        return 1 + len(self.probes)


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
class Smoothing:
    """Training-free: suspicious rows of suspicious heads are smoothed (see `subgraphs.smoothing`). It flags no columns.

    After the description of TIGS (arXiv 2604.24162) in its abstract; the formulas and these numbers are ours.

    Attributes:
        tail: share of a head's rows that are its tail, by how much their attention peaks.
        weak: share of a row's attention on content that is spread evenly over content.
        strong: share of the whole row that is spread evenly over all that it sees.
        rows: nothing is judged by fewer rows, and no row that sees fewer content columns.
        floor: added to the spread of the heads, in multiples of uniform attention.
    """

    tail: float = 0.1
    weak: float = 0.1
    strong: float = 0.6
    rows: int = 8
    floor: float = 0.25
    kind: Literal["smoothing"] = "smoothing"


@dataclass(frozen=True)
class OnnxGraph:
    """A user's detector: a serialized ONNX model, (B, H, Q, K) float32 → (B, K) float32 scores."""

    model: bytes
    kind: Literal["onnx"] = "onnx"


Detector = Static | Statistic | Profile | OneClass | Cnn | OnnxGraph | Smoothing


def ids_read(detector: Detector) -> str | None:
    """The graph input by whose ids the detector knows equal tokens; None where it does not ask."""
    return detector.tokens if isinstance(detector, OneClass | Profile) else None
