"""Attention maps and values of a model's sites over a data set, batch by batch, in canonical form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.editing.fused_sites import lower_fused_sites
from rewriters.sites import Site

from .datasets import DataSet, Ints
from .runner import Runner, expose, only

__all__ = ["Capture", "SiteBatch", "canonical_map", "canonical_values"]

Floats = NDArray[np.float32]

BUDGET = 128 << 20
"""Most bytes of maps and values in memory at a time."""
MOST_ROWS = 64


@dataclass(frozen=True)
class SiteBatch:
    """One site's arrays for a batch: map A (B, H, Q, K), values V (B | 1, H | 1, K, D), valid columns (B, K)."""

    map: Floats
    values: Floats
    valid: NDArray[np.bool_]


Batch = tuple[Ints, Mapping[str, SiteBatch]]


def canonical_map(site: Site, array: NDArray[Any]) -> Floats:
    """Probabilities as they enter the product → (B, H, Q, K) float32."""
    return _four(site, array, site.layout.probabilities)


def canonical_values(site: Site, array: NDArray[Any]) -> Floats:
    """Values as they enter the product → (B | 1, H | 1, K, D) float32."""
    layout = site.layout
    if layout.values_lack and layout.values is not None:
        array, permutation = np.expand_dims(array.transpose(layout.values), layout.values_lack), None
    else:
        permutation = layout.values
    return _four(site, array, permutation)


def _four(site: Site, array: NDArray[Any], permutation: tuple[int, ...] | None) -> Floats:
    layout = site.layout
    array = array.astype(np.float32, copy=False)
    array = array.reshape((1,) * (layout.rank - array.ndim) + array.shape)
    if permutation is not None:
        array = array.transpose(permutation)
    if layout.rank == 2:
        return array[None, None]
    if layout.rank == 3:
        return (
            array[:, None] if layout.merged_heads is None else array.reshape(-1, layout.merged_heads, *array.shape[1:])
        )
    heads = 1 if layout.single_head else array.shape[-3]
    return array.reshape(-1, heads, *array.shape[-2:])


class Capture:
    """Streams site batches of a model.

    Args:
        model: not patched.
        folder: of the model's external data.
        sites: candidates; those that do not fit the data end up in `skipped`.
        data: only its first row is run here.
        columns: K of the data set's column labels; None: the number of key columns that most sites have.
        mask: see `Runner.without_padding`; maps then have as many columns as the longest row of their batch.
        padding: input that is 0 at padding of sites whose graph does not show one, as of a decoder with a cache.
        keep: so many bytes of batches are kept, for who asks for the same rows again.

    Attributes:
        sites: the sites that fit, fused ones included.
        skipped: site id → why not.
        fixed_shape: the graph fixes all input shapes, so a column is always the same place.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        sites: Sequence[Site],
        data: DataSet,
        columns: int | None,
        threads: int | None = None,
        mask: str | None = None,
        padding: str | None = None,
        keep: int = 0,
    ) -> None:
        self._padding, self._room = padding, keep
        self._kept: dict[Hashable, list[Batch]] = {}
        self.skipped: dict[str, str] = {
            site.id: "it lies inside a subgraph or function" for site in sites if site.where
        }
        lowered, readable = lower_fused_sites(model, [site for site in sites if not site.where])
        wanted = [(name, site.dtype) for site in readable for name in (site.probabilities, site.values)]
        self._runner = Runner(_reading(lowered, wanted, data), folder, threads)
        self.fixed_shape = self._runner.fixed_shape
        self.sites: tuple[Site, ...] = ()
        if not readable:
            return
        row = np.zeros(1, np.int64)
        _, outputs = next(self._runner.batches(data, row, 1, self._names(readable)))
        batch = self._runner.fixed_batch or 1
        fitting = []
        shapes = {site.id: canonical_map(site, outputs[site.probabilities]).shape for site in readable}
        if columns is None:
            counted = Counter(shape[3] for shape in shapes.values() if shape[0] == batch).most_common(1)
            columns = counted[0][0] if counted else 0
        for site in readable:
            shape = shapes[site.id]
            if site.layout.widths > 1:
                self.skipped[site.id] = (
                    "its values have several feature axes, whose sizes may change with every request"
                )
            elif shape[0] != batch:
                self.skipped[site.id] = "its leading axis counts windows, not samples"
            elif shape[3] != columns:
                self.skipped[site.id] = f"it has {shape[3]} key columns, not {columns}"
            else:
                fitting.append(site)
        # Plans and patches need the sites of the model itself, not of the graph changed for reading.
        self._readable = tuple(fitting)
        kept = {site.id for site in fitting}
        self.sites = tuple(site for site in sites if site.id in kept)
        size = sum(outputs[name].nbytes for name in self._names(fitting)) // batch
        self._rows = int(np.clip(BUDGET // max(size, 1), 1, MOST_ROWS))
        self._runner = self._runner.without_padding(mask)

    @staticmethod
    def _names(sites: Sequence[Site]) -> list[str]:
        return list(dict.fromkeys(name for site in sites for name in (site.probabilities, site.values)))

    def batches(self, data: DataSet, rows: Ints, threshold: float | None = None) -> Iterator[Batch]:
        """Row numbers, and by site id the sites' arrays for these rows, which nobody may change."""
        key = data, rows.tobytes(), threshold
        if key in self._kept:
            yield from self._kept[key]
            return
        kept: list[Batch] = []
        size = 0
        for chunk, outputs in self._runner.batches(data, rows, self._rows, self._names(self._readable), threshold):
            sites = {site.id: self._site_batch(site, outputs, data, chunk) for site in self._readable}
            size += sum(one.map.nbytes + one.values.nbytes for one in sites.values())
            if size <= self._room:
                kept.append((chunk, sites))
            else:
                kept.clear()
            yield chunk, sites
        if size <= self._room:
            self._kept[key], self._room = kept, self._room - size

    def _site_batch(self, site: Site, outputs: Mapping[str, NDArray[Any]], data: DataSet, rows: Ints) -> SiteBatch:
        count = len(rows)
        maps = canonical_map(site, outputs[site.probabilities])[:count]
        values = canonical_values(site, outputs[site.values])[:count]
        mask = site.key_mask if site.key_mask in data.inputs else self._padding
        if mask is not None and mask in data.inputs and site.layout.samples_lead:
            return SiteBatch(maps, values, data.inputs[mask][rows, : maps.shape[3]] != 0)
        seen = np.ones((len(maps), maps.shape[3]), np.bool_) if site.unmasked else maps.max((1, 2)) > 0
        return SiteBatch(maps, values, seen)


def _reading(model: onnx.ModelProto, wanted: Sequence[tuple[str, int]], data: DataSet) -> onnx.ModelProto:
    """The model with these values as outputs; without what comes behind them, where the data has all its inputs."""
    exposed = expose(model, wanted)
    weights = {tensor.name for tensor in model.graph.initializer}
    if any(value.name not in data.inputs and value.name not in weights for value in model.graph.input):
        return exposed
    return only(exposed, [name for name, _ in wanted])
