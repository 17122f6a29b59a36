"""Numbers behind the pictures: accuracy and attack over thresholds, attention by layer, and one request's map before
and after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.comparison.attention import capture_maps, effective_map
from atpatch_onnx.inference.capture import Capture
from atpatch_onnx.inference.datasets import DataSet

from .answers import Figures, judge
from .case import Case
from .latency import lone

__all__ = ["curves_step"]

MOST_ROWS, MOST_GROUPS = 500, 500
LOGITS = tuple(range(-14, 15))
QUANTILES = (0.1, 0.5, 0.9)


def curves_step(case: Case, say: Callable[[str], None]) -> Figures:
    """All three."""
    say("thresholds")
    curve = _thresholds(case)
    say("attention by layer")
    layers = _layers(case)
    say("one request")
    return {"thresholds": curve, "layers": layers, "request": _request(case, layers)}


def _thresholds(case: Case) -> list[Figures]:
    """One patched session, asked at each threshold through its runtime control, from flagging everything to nothing."""
    if case.setting.detector == "static":
        return []  # it has no threshold
    clean, attacked = _part(case)
    asked = case.ask(case.patched(replace(case.plan, telemetry=True)))
    before = case.before[0].predictions[: len(clean)]
    points = []
    for logit in LOGITS:
        threshold = float(1 / (1 + np.exp(-logit)))
        on_clean, on_attacked = asked.all(clean, threshold), asked.all(attacked, threshold)
        found = judge(clean, attacked, before, on_clean.predictions, on_attacked.predictions)
        shares = {name: share["value"] for name, share in found.items()}
        points.append({"threshold": threshold, **shares, "clean_flagged": float(on_clean.flagged.mean())})
    return points


def _part(case: Case) -> tuple[DataSet, DataSet]:
    """The first test rows, and what was made of them."""
    count = min(MOST_ROWS, len(case.clean))
    source = case.attacked.group if case.attacked.group is not None else case.attacked.clean_row
    assert source is not None
    return _rows(case.clean, np.arange(count)), _rows(case.attacked, np.flatnonzero(source < count))


def _rows(data: DataSet, rows: NDArray[np.int64]) -> DataSet:
    per_row = {
        name: array[rows] for name in ("labels", "clean_row", "group") if (array := getattr(data, name)) is not None
    }
    return replace(data, inputs=data.feeds(rows), **per_row)


def _layers(case: Case) -> list[Figures]:
    """Per site, on anomalous rows of the debugging set, attention to labeled columns and to the others, as multiples
    of uniform attention: means over heads and query rows, their quantiles over rows.
    """
    data = case.debug
    assert data.columns is not None
    capture = Capture(case.model, case.folder, case.sites, data, data.columns.shape[1], case.threads)
    rows = case.generator().permutation(np.flatnonzero(data.columns.any(1)))[:MOST_ROWS]
    found: dict[str, tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]] = {
        site.id: ([], []) for site in capture.sites
    }
    for chunk, batch in capture.batches(data, np.sort(rows)):
        for name, site in batch.items():
            # Rows of padding give no attention that means anything.
            queries = site.valid if site.map.shape[2] == site.map.shape[3] else np.ones(site.map.shape[::2], bool)
            weights = queries / queries.sum(1, keepdims=True)
            mass = np.einsum("bq,bhqk->bk", weights, site.map) / site.map.shape[1] * site.valid.sum(1, keepdims=True)
            for kept, columns in zip(
                found[name], (data.columns[chunk], site.valid & ~data.columns[chunk]), strict=True
            ):
                kept.append(mass[columns])
    return [
        {
            "site": name,
            **{
                part: np.quantile(np.concatenate(mass), QUANTILES).round(4).tolist()
                for part, mass in zip(("labeled", "others"), both, strict=True)
            },
        }
        for name, both in found.items()
    ]


def _request(case: Case, layers: list[Figures]) -> Figures:
    """One map (Q, K) of a request that the patch put right, mean over heads; of the site that looks most at what is
    labeled.
    """
    plan = replace(case.plan, telemetry=True)
    asked = case.ask(case.patched(plan))
    after, before = asked.all(case.attacked), case.before[1].predictions
    right = np.flatnonzero(after.flagged & (after.predictions != before) & (after.predictions == _twins(case)))
    if not len(right):
        return {"skipped": "no request was put right"}
    row = int(right[0])
    data = DataSet(lone(case.attacked, row))
    only, sites = np.zeros(1, np.int64), [site for site in case.sites if site.id in plan.sites]
    strong = {layer["site"]: layer["labeled"][1] for layer in layers}
    seen = capture_maps(case.model, case.folder, sites, data, only)
    patched = case.patched(plan)
    flagged = {site.id: capture_maps(patched, case.folder, [site], data, only)[site.id].flagged[0] for site in sites}
    flags = np.any(list(flagged.values()), axis=0)
    site = max(seen, key=lambda name: strong.get(name, 0.0))
    a = seen[site].probabilities[0]
    benign = plan.sites[site].benign
    # What is excised draws no attention at all.
    mended = effective_map(
        a, flags, replace(benign, attention=0 * benign.attention) if plan.mend == "excise" else benign
    )
    return {
        "row": row,
        "site": site,
        "flagged": np.flatnonzero(flags).tolist(),
        "before": _rounded(a),
        "after": _rounded(mended),
        "prediction": {"before": int(before[row]), "after": int(after.predictions[row])},
    }


def _rounded(attention: NDArray[np.float32]) -> list[list[float]]:
    """Mean over heads, (H, Q, K) → (Q, K)."""
    rounded: list[list[float]] = attention.mean(0, dtype=np.float64).round(4).tolist()
    return rounded


def _twins(case: Case) -> NDArray[np.int64]:
    """(N,), what the original says of the clean twins; of a flip group, of its first row."""
    attacked, clean = case.attacked, case.before[0].predictions
    rows = attacked.clean_row if attacked.group is None else attacked.group
    assert rows is not None
    return clean[rows]
