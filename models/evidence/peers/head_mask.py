"""A static head mask: the heads that look most at the labeled columns are switched off for good, as long as accuracy
bears it.

Heads are ranked by their attention to the labeled columns on anomalous rows of the debugging set, relative to that to
all other columns; in that order each is masked (its values become 0) if clean accuracy stays within a budget and the
fault does not grow. Costs one multiplication a site.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from atpatch_onnx.inference.capture import Capture
from atpatch_onnx.inference.datasets import Ints
from atpatch_onnx.statistics.proportions import unfair
from rewriters.sites import Site

from ..answers import Figures
from ..case import Case
from ..latency import ratio, requests, samples
from .fine_pruning import BUDGET, judged

__all__ = ["masked", "run"]

MOST_HEADS, MOST_ROWS = 24, 400

Heads = list[tuple[int, int]]


def run(case: Case, say: Callable[[str], None]) -> Figures:
    """Figures of the masked model, and the cost."""
    sites = [site for site in case.sites if not site.where and site.layout.rank == 4]
    if not sites:
        return {"skipped": "no site has an axis of heads of its own"}
    ranked = _ranked(case, sites)[:MOST_HEADS]
    chosen = _chosen(case, sites, ranked)
    say(f"{len(chosen)} of {len(ranked)} heads masked")
    model = masked(case.model, sites, chosen)
    latency = ratio(requests(case, None), requests(case, model), samples(case))
    return {"heads": len(chosen), "tried": len(ranked), **judged(case, model), "runs": 1, "latency": latency}


def masked(model: onnx.ModelProto, sites: list[Site], heads: Heads) -> onnx.ModelProto:
    """A copy in which some heads, (index of the site, head), have values of 0."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for index in sorted({index for index, _ in heads}):
        site = sites[index]
        assert site.heads is not None
        mask = np.ones((1, site.heads, 1, 1), helper.tensor_dtype_to_np_dtype(site.dtype))
        mask[0, [head for where, head in heads if where == index]] = 0
        if site.layout.values is not None:
            mask = mask.transpose(np.argsort(site.layout.values))
        name = f"head_mask/{site.id}"
        copy.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(mask), name))
        position, product = next(
            (number, node) for number, node in enumerate(copy.graph.node) if site.product in node.output
        )
        product.input[1 - site.operand] = f"{name}/values"
        copy.graph.node.insert(position, helper.make_node("Mul", [site.values, name], [f"{name}/values"], name=name))
    return copy


def _ranked(case: Case, sites: list[Site]) -> Heads:
    """Heads, those that look most at the labeled columns first."""
    data = case.debug
    assert data.columns is not None
    capture = Capture(case.model, case.folder, sites, data, data.columns.shape[1], case.threads)
    kept = {site.id: index for index, site in enumerate(sites)}
    sums: dict[str, NDArray[np.float64]] = {}
    anomalous = np.flatnonzero(data.columns.any(1))
    for rows, batch in capture.batches(data, _sample(case, anomalous)):
        labeled = data.columns[rows]
        for name, site in batch.items():
            looked = site.map.mean(2) * site.valid.sum(1)[:, None, None]
            parts = (labeled, site.valid & ~labeled)
            sums[name] = sums.get(name, 0.0) + np.stack(
                [np.einsum("bhk,bk->h", looked, part) / max(part.sum(), 1) for part in parts]
            )
    scores = {
        (kept[name], head): float(total[0, head] / total[1, head])
        for name, total in sums.items()
        for head in range(total.shape[1])
    }
    return sorted(scores, key=lambda head: -scores[head])


def _chosen(case: Case, sites: list[Site], ranked: Heads) -> Heads:
    """Greedy: each head in turn, if it does no harm."""
    assert case.spare.labels is not None and case.debug.columns is not None
    clean = _sample(case, np.arange(len(case.spare)))
    bad = _sample(case, np.flatnonzero(case.debug.columns.any(1)))

    def trial(heads: Heads) -> tuple[float, float]:
        asked = case.ask(masked(case.model, sites, heads))
        accuracy = (asked.rows(case.spare, clean).predictions == case.spare.labels[clean]).mean()
        return float(accuracy), _fault(case, asked.rows(case.debug, bad).predictions, bad)

    first, fault = trial([])
    chosen: Heads = []
    for head in ranked:
        accuracy, left = trial([*chosen, head])
        if accuracy >= first - BUDGET and left <= fault:
            chosen, fault = [*chosen, head], left
    return chosen


def _fault(case: Case, predictions: Ints, rows: Ints) -> float:
    """Share of anomalous debugging rows that go to the target, or that differ from the others of their group."""
    if case.setting.fault == "backdoor":
        return float((predictions == case.debug.target).mean())
    group = case.debug.group
    assert group is not None
    return float(unfair(predictions, group[rows]).mean())


def _sample(case: Case, rows: Ints) -> Ints:
    return np.sort(case.generator().permutation(rows)[:MOST_ROWS])
