"""Attention maps of chosen rows: as the graphs computed them, and as a patch changes them.

Shape letters: N rows, H heads, Q query rows, K key columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.editing.fused_sites import lower_fused_sites
from rewriters.names import columns_output, is_inserted
from rewriters.plan import BenignPair
from rewriters.sites import Site
from rewriters.subgraphs.redistribution import FLOOR

from ..inference.capture import canonical_map
from ..inference.datasets import DataSet, Ints
from ..inference.runner import Runner, expose

__all__ = ["SiteMap", "capture_maps", "effective_map"]


@dataclass(frozen=True, eq=False)
class SiteMap:
    """One site's probabilities (N, H, Q, K) as they reached the P·V product, and its flagged columns (N, K).

    Where a map's first axis counts windows, N counts them too: first those of the first row, then those of the next.
    """

    probabilities: NDArray[np.float32]
    flagged: NDArray[np.bool_]


def capture_maps(
    model: onnx.ModelProto, folder: Path, sites: Sequence[Site], data: DataSet, rows: Ints
) -> Mapping[str, SiteMap]:
    """Run some rows through a model, original or patched with telemetry, and keep the maps of its sites.

    The probabilities become outputs of a copy of the graph. Sites in subgraphs and functions are left out; so are fused
    sites of a patched graph, since the patch has replaced the operator. A site without telemetry counts as
    unflagged.

    Raises:
        AtpatchError: ATP050, ATP052 (onnxruntime), ATP056 (the data do not fit the graph).
    """
    made = {name for node in model.graph.node for name in node.output}
    within = {output for node in model.graph.node if not is_inserted(node.name) for output in node.output}
    outer = [
        site
        for site in sites
        if not site.where and (site.probabilities in made or (not site.probabilities and site.product in within))
    ]
    lowered, readable = lower_fused_sites(model, outer)
    runner = Runner(expose(lowered, [(site.probabilities, site.dtype) for site in readable]), folder, threads=1)
    columns = [name for site in readable if (name := columns_output(site.id)) in runner.outputs]
    names = [*dict.fromkeys(site.probabilities for site in readable), *columns]
    if not names:
        return {}
    feeds = runner.feeds(data, rows)
    outputs = runner.run(feeds, names)
    batch = len(next(iter(feeds.values())))
    return {site.id: _site_map(site, outputs, len(rows), batch) for site in readable}


def _site_map(site: Site, outputs: Mapping[str, NDArray[Any]], count: int, batch: int) -> SiteMap:
    probabilities = canonical_map(site, outputs[site.probabilities])
    probabilities = probabilities[: count * max(len(probabilities) // batch, 1)]
    flagged = outputs.get(columns_output(site.id))
    nothing = np.zeros((len(probabilities), probabilities.shape[-1]), bool)
    return SiteMap(probabilities, nothing if flagged is None else flagged[: len(probabilities)].astype(bool))


def effective_map(a: NDArray[np.float32], flagged: NDArray[np.bool_], pair: BenignPair) -> NDArray[np.float32]:
    """The map that would give the patch's result: joint redistribution over all flagged columns.

    The graph never forms this map; it gets the same product by masking rows of V. Flagged columns weigh the *benign*
    values if the pair has any.

    Args:
        a: (H, Q, K), rows that see every column.
        flagged: (K,).
        pair: the site's benign reference at the level in use.

    Returns: (H, Q, K), every row with its old sum.
    """
    if not flagged.any() or flagged.all():
        return a
    total = a.sum(-1, keepdims=True, dtype=np.float64)
    benign = pair.attention[:, None, None] / a.shape[-1] if pair.relative else pair.attention
    q = np.where(flagged, np.broadcast_to(benign, a.shape), 0.0)
    q = q / np.maximum(q.sum(-1, keepdims=True), 1.0)
    kept = np.where(flagged, 0.0, a)
    rest = kept.sum(-1, keepdims=True)
    left = 1.0 - q.sum(-1, keepdims=True)
    # A saturated row has no other mass to scale up, so its mass is spread evenly.
    even = np.where(flagged, 0.0, total * left / (~flagged).sum())
    scaled = np.where(rest > FLOOR * total, kept * total * left / np.maximum(rest, np.finfo(np.float32).tiny), even)
    effective: NDArray[np.float32] = (scaled + total * q).astype(np.float32)
    return effective
