"""The row that shows best what a patch does, and its twin, in both models: scores, and attention of every site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.plan import PatchPlan
from rewriters.sites import Site

from ..inference.datasets import Arrays, DataSet
from .attention import SiteMap, capture_maps, effective_map
from .outputs import Outputs, Truth

__all__ = ["Chosen", "Exemplar", "SiteView", "choose", "follow", "softmax"]

Floats = NDArray[np.float32]

PROBE, MEAN = 0, 1
"""What is kept of a map, as head means (2, K): one query row, and the mean over all query rows."""


@dataclass(frozen=True)
class Chosen:
    """A row of a set, and its twin: the same sample without the trigger, or with the attribute's own value.

    Attributes:
        set, row: "triggered", "flips" or "clean".
        twin_set, twin: None where there is none.
    """

    set: str
    row: int
    twin_set: str | None = None
    twin: int | None = None


@dataclass(frozen=True, eq=False)
class SiteView:
    """One site's attention; `PROBE` and `MEAN` of each map (2, K), and the columns flagged (K,).

    Attributes:
        before, after: original and patched model on the row.
        clean: the original model on its twin; None without one.
    """

    site: str
    before: Floats
    after: Floats
    flagged: NDArray[np.bool_]
    clean: Floats | None = None


@dataclass(frozen=True, eq=False)
class Exemplar:
    """One row in full.

    Attributes:
        chosen: which.
        label: its true class; None where that is unknown.
        before, after, clean: class scores (C,) of the original and the patched model and of the original on the twin.
        sites: views, in graph order.
        inputs, twin: the model's inputs, without the sample axis.
        words, twin_words: for a text model, the tokens of the columns; () where they are not known.
        redistributed: whether `after` is the attention after redistribution; else it is the map before it, with the
            flagged columns.
    """

    chosen: Chosen
    label: int | None
    before: Floats | None
    after: Floats | None
    clean: Floats | None
    sites: tuple[SiteView, ...]
    inputs: Arrays
    twin: Arrays = field(default_factory=dict)
    words: tuple[str, ...] = ()
    twin_words: tuple[str, ...] = ()
    redistributed: bool = False

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Flat, for saving; paths are separated by tabs."""
        chosen = self.chosen
        where = np.array(
            [chosen.set, str(chosen.row), chosen.twin_set or "", "" if chosen.twin is None else str(chosen.twin)]
        )
        found: dict[str, Any] = {"chosen": where, "label": self.label, "redistributed": self.redistributed}
        found |= {name: getattr(self, name) for name in ("before", "after", "clean")}
        found |= {name: np.array(words) for name in ("words", "twin_words") if (words := getattr(self, name))}
        for view in self.sites:
            found |= {
                f"sites\t{view.site}\t{name}": getattr(view, name) for name in ("before", "after", "flagged", "clean")
            }
        for kind, inputs in (("inputs", self.inputs), ("twin", self.twin)):
            found |= {f"{kind}\t{name}": array for name, array in inputs.items()}
        return {name: np.asarray(value) for name, value in found.items() if value is not None}

    @classmethod
    def from_arrays(cls, tree: Mapping[str, Any]) -> Exemplar:
        """The inverse of `arrays`, from nested mappings."""
        set_name, row, twin_set, twin = (str(part) for part in tree["chosen"])
        chosen = Chosen(set_name, int(row), twin_set or None, int(twin) if twin else None)
        label = int(tree["label"]) if "label" in tree else None
        views = tuple(SiteView(site=name, **parts) for name, parts in tree.get("sites", {}).items())
        before, after, clean = (tree.get(name) for name in ("before", "after", "clean"))
        words, twin_words = (tuple(map(str, tree.get(name, ()))) for name in ("words", "twin_words"))
        redistributed = bool(tree["redistributed"])
        return cls(
            chosen,
            label,
            before,
            after,
            clean,
            views,
            tree["inputs"],
            tree.get("twin", {}),
            words,
            twin_words,
            redistributed,
        )


def choose(
    truths: Mapping[str, Truth], original: Mapping[str, Outputs], patched: Mapping[str, Outputs]
) -> Chosen | None:
    """The row that shows best what the patch does; sets are searched in the order triggered, flips, clean.

    1. Triggered: fooled before and not after; the one moved furthest from the target.
    2. Flips: in a group that was split and no longer is; a row that stood out, next to its group's first row. With
       labels one that was answered wrong and is answered right, else one that is answered right.
    3. Clean: a changed prediction, else a flagged row, else a row whose outputs moved; the one that moved furthest.

    None where nothing moved at all.
    """
    if "triggered" in patched and original["triggered"].scores is not None:
        truth, before, after = truths["triggered"], original["triggered"], patched["triggered"]
        assert truth.target is not None and before.scores is not None and after.scores is not None
        fooled = before.predictions == truth.target
        if truth.labels is not None:
            fooled &= truth.labels != truth.target
        rescued = fooled & (after.predictions != truth.target)
        # A row that ends with its right class is better than one that ends with another.
        home = rescued if truth.labels is None else rescued & (after.predictions == truth.labels)
        candidates = next((rows for rows in (home, rescued, fooled) if rows.any()), np.ones(truth.count, bool))
        fall = softmax(before.scores)[:, truth.target] - softmax(after.scores)[:, truth.target]
        row = _furthest(candidates, fall)
        twin = None if truth.clean_row is None else int(truth.clean_row[row])
        return Chosen("triggered", row, None if twin is None else "clean", twin)
    if (
        "flips" in patched
        and original["flips"].scores is not None
        and (found := _choose_flip(truths["flips"], original, patched))
    ):
        return found
    moved = sum((rows[:, 0] for rows in patched["clean"].differences.values()), np.zeros(truths["clean"].count))
    changed = np.zeros(len(moved), bool)
    if patched["clean"].scores is not None:
        changed = patched["clean"].predictions != original["clean"].predictions
    flagged = patched["clean"].flagged
    for candidates in (changed, changed if flagged is None else flagged, moved > 0):
        if candidates.any():
            return Chosen("clean", _furthest(candidates, moved))
    return None


def _choose_flip(truth: Truth, original: Mapping[str, Outputs], patched: Mapping[str, Outputs]) -> Chosen | None:
    before, after = original["flips"].predictions, patched["flips"].predictions
    assert truth.group is not None
    groups, first, which = np.unique(truth.group, return_index=True, return_inverse=True)
    stood_out = before != before[first][which]
    settled = after == after[first][which]
    right = np.ones(truth.count, bool) if truth.labels is None else after == truth.labels
    wrong_before = right if truth.labels is None else before != truth.labels
    unfair = stood_out & settled
    for candidates in (unfair & right & wrong_before, unfair & right, unfair, stood_out):
        if candidates.any():
            moved = sum((rows[:, 0] for rows in patched["flips"].differences.values()), np.zeros(truth.count))
            row = _furthest(candidates, moved)
            return Chosen("flips", row, "flips", int(first[which[row]]))
    return None


def _furthest(candidates: NDArray[np.bool_], moved: NDArray[Any]) -> int:
    return int(np.argmax(np.where(candidates, moved, -np.inf)))


def follow(
    models: tuple[onnx.ModelProto, onnx.ModelProto],
    folders: tuple[Path, Path],
    sites: Sequence[Site],
    plan: PatchPlan | None,
    outputs: tuple[Mapping[str, Outputs], Mapping[str, Outputs]],
    data: Mapping[str, DataSet],
    chosen: Chosen,
) -> Exemplar:
    """Capture scores, maps and flags of one row.

    Args:
        models, folders, outputs: of the original and the patched model, the latter with telemetry.
        sites: of the original model.
        plan: what was patched in, None where that is not known.
        data: set → rows.
    """
    before, after = outputs
    original, patched = models
    rows = np.array([chosen.row])
    fooled = capture_maps(original, folders[0], sites, data[chosen.set], rows)
    mended = capture_maps(patched, folders[1], sites, data[chosen.set], rows)
    calm: Mapping[str, SiteMap] = {}
    if chosen.twin_set is not None:
        calm = capture_maps(original, folders[0], sites, data[chosen.twin_set], np.array([chosen.twin]))
    # The second run of two passes is inside a branch, where no map can be read.
    known = plan is not None and plan.passes == "one"
    views = tuple(
        _view(site.id, fooled[site.id], mended[site.id], calm.get(site.id), plan if known else None)
        for site in sites
        if site.id in fooled and site.id in mended
    )
    here = data[chosen.set]
    return Exemplar(
        chosen,
        None if here.labels is None else int(here.labels[chosen.row]),
        _scores(before[chosen.set], chosen.row),
        _scores(after[chosen.set], chosen.row),
        None if chosen.twin_set is None or chosen.twin is None else _scores(before[chosen.twin_set], chosen.twin),
        views,
        {name: array[chosen.row] for name, array in here.inputs.items()},
        {}
        if chosen.twin_set is None
        else {name: array[chosen.twin] for name, array in data[chosen.twin_set].inputs.items()},
        redistributed=known,
    )


def _view(name: str, before: SiteMap, after: SiteMap, clean: SiteMap | None, plan: PatchPlan | None) -> SiteView:
    # Of several windows, the one with most flags.
    window = int(after.flagged.sum(1).argmax())
    a, flagged = after.probabilities[window], after.flagged[window]
    if plan is not None and name in plan.sites:
        pair = plan.sites[name].benign
        seen = a.any((0, 1)) if pair.relative else np.ones(a.shape[-1], bool)
        mended = np.zeros_like(a)
        mended[..., seen] = effective_map(a[..., seen], flagged[seen], pair)
        a = mended
    return SiteView(
        name,
        _kept(before.probabilities[window]),
        _kept(a),
        flagged,
        None if clean is None or len(clean.probabilities) <= window else _kept(clean.probabilities[window]),
    )


def _kept(a: Floats) -> Floats:
    """(H, Q, K) → (2, K).

    The one query row is the first, or, where the first sees only itself (a causal map), the last that sees anything.
    """
    mean = a.mean(0)
    if mean.shape[0] == mean.shape[1]:  # padded tokens are query rows too, and must not count
        mean = mean[mean.any(0) | ~mean.any()]
    rows = np.flatnonzero(mean.any(1))
    probe = 0 if len(rows) < 2 or np.count_nonzero(mean[0]) > 1 else int(rows[-1])
    return np.stack([mean[probe], mean.mean(0)]).astype(np.float32)


def _scores(run: Outputs, row: int) -> Floats | None:
    return None if run.scores is None else run.scores[row]


def softmax(scores: Floats) -> Floats:
    """Class probabilities from logits (..., C)."""
    shifted = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True), np.float32)
