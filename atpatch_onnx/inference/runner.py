"""Runs a model over a data set in batches, with extra outputs when asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from rewriters.editing.edits import refill
from rewriters.finding.finder import find_sites
from rewriters.model.bodies import needed
from rewriters.names import STEERING, THRESHOLD

from ..errors import DATA_MALFORMED, RUNTIME_REFUSES, ModelError, PlanError
from .controls import required_controls
from .datasets import DataSet, Ints
from .decoders import IDS, find_decoder
from .padding import cut, lengths
from .reading import Classes, Reader
from .sessions import session

__all__ = ["Runner", "expose", "only", "why_not_run"]


BUDGET = 1 << 28
"""Most bytes of logits of one run."""


def expose(model: onnx.ModelProto, values: Sequence[tuple[str, int]]) -> onnx.ModelProto:
    """A copy of a model with inner values (name, element type) as further outputs of the main graph."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {output.name for output in exposed.graph.output}
    for name, dtype in values:
        if name not in present:
            exposed.graph.output.append(helper.make_tensor_value_info(name, dtype, None))
            present.add(name)
    return exposed


def only(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """The model, changed so that it makes no more than some of its outputs."""
    graph = model.graph
    refill(graph.node, needed(graph.node, outputs))
    refill(graph.output, [value for value in graph.output if value.name in outputs])
    return model


class Runner:
    """An onnxruntime session that takes rows of a data set.

    Args:
        model: may refer to external data in `folder`.
        threads, providers, optimize: see `runtime.session`.

    Raises:
        AtpatchError: ATP050 without onnxruntime, ATP052 where it refuses the model.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        threads: int | None = None,
        *,
        providers: Sequence[str] | None = None,
        optimize: bool = True,
    ) -> None:
        self._session = session(model, providers, threads, optimize, folder)
        self.outputs = [output.name for output in self._session.get_outputs()]
        self._inputs = {value.name: value for value in self._session.get_inputs() if value.name not in STEERING}
        self._controls = required_controls(self._session)
        self.decoder = find_decoder(
            [*self._inputs.values()], self._session.get_outputs(), _numpy, partial(head_width, model)
        )
        made = self.decoder.made if self.decoder else ()
        leading = {value.shape[0] for name, value in self._inputs.items() if value.shape and name not in made}
        fixed = {size for size in leading if isinstance(size, int)}
        self.fixed_batch: int | None = fixed.pop() if len(fixed) == 1 else None
        self._mask: str | None = None
        self._reader: Reader | None = None
        self._classes: tuple[str, Classes] | None = None

    def without_padding(self, mask: str | None) -> Runner:
        """A runner on the same session that takes the shortest rows first and cuts each batch to its longest row.

        Args:
            mask: graph input that is 0 at padding. If None or of fixed width, rows keep their order and length.
        """
        open_width = mask in self._inputs and not isinstance(self._inputs[mask].shape[1], int)
        if not open_width or self.fixed_batch:
            return self
        runner = copy(self)
        runner._mask = mask
        return runner

    def answering(self, reader: Reader | None) -> Runner:
        """A runner on the same session that gives what is read off an output in place of it: of a decoder, the scores
        of its answer (B, C) in place of its logits.
        """
        runner = copy(self)
        runner._reader = reader
        return runner

    def classed(self, output: str, classes: Classes | None) -> Runner:
        """A runner on the same session whose `batches` give scores of classes in place of an output; `classes` knows
        the rows of the data set.
        """
        runner = copy(self)
        runner._classes = None if classes is None else (output, classes)
        return runner

    def alike(self, other: Runner) -> Runner:
        """Another runner of the same graph, answering as this one does."""
        return other.answering(self._reader)

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that onnxruntime uses."""
        return tuple(self._session.get_providers())

    @property
    def cuts(self) -> bool:
        """Whether batches are cut to their longest row."""
        return self._mask is not None

    @property
    def fixed_shape(self) -> bool:
        """Whether the graph fixes the size of every input axis but the sample axis."""
        return all(isinstance(size, int) for value in self._inputs.values() for size in value.shape[1:])

    def batches(
        self, data: DataSet, rows: Ints, size: int, outputs: Sequence[str], threshold: float | None = None
    ) -> Iterator[tuple[Ints, dict[str, NDArray[Any]]]]:
        """Outputs for some rows, batch by batch.

        Where a fixed sample axis is longer than the batch, repeats of the last row fill it.

        Args:
            threshold: fed to `atpatch_threshold` of a patched graph.

        Raises:
            AtpatchError: ATP056 where inputs are missing or do not fit, ATP052 where onnxruntime fails.
        """
        size = self.fixed_batch or self.at_most(data, size)
        controls = {} if threshold is None else {THRESHOLD: np.array(threshold, np.float32)}
        if self._mask is not None:
            used = lengths(data.inputs[self._mask])
            rows = rows[np.argsort(used[rows], kind="stable")]
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            feeds = self._given(data, chunk)
            if self._mask is not None:
                feeds = cut(feeds, self._mask, int(used[chunk].max()))
            found = self.run({**self._completed(feeds), **controls}, outputs)
            if self._classes is not None and (name := self._classes[0]) in found:
                found[name] = self._classes[1].scores(chunk, found[name][: len(chunk)])
            yield chunk, found

    def feeds(self, data: DataSet, rows: Ints) -> dict[str, NDArray[Any]]:
        """The inputs of one run for some rows, in the graph's own types; those of a decoder that `data` lacks are made.

        Repeats of the last row fill a fixed sample axis.

        Raises:
            AtpatchError: ATP056 where inputs are missing or do not fit.
        """
        return self._completed(self._given(data, rows))

    def _given(self, data: DataSet, rows: Ints) -> dict[str, NDArray[Any]]:
        made = self.decoder.made if self.decoder is not None and IDS in data.inputs else frozenset()
        missing = [name for name in self._inputs if name not in data.inputs and name not in made]
        if missing:
            raise DATA_MALFORMED(
                f"the data set lacks the graph's input {', '.join(map(repr, missing))}; it has {', '.join(data.inputs)}"
            )
        if self.fixed_batch:
            rows = np.concatenate([rows, np.repeat(rows[-1:], self.fixed_batch - len(rows))])
        return {
            name: _cast(name, data.inputs[name][rows], value.type)
            for name, value in self._inputs.items()
            if name in data.inputs
        }

    def _completed(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self.decoder is None or len(feeds) == len(self._inputs):
            return feeds
        return feeds | self.decoder.first_call(feeds)

    def at_most(self, data: DataSet, size: int) -> int:
        """Rows in one run: logits of a large vocabulary would fill the memory."""
        if self._reader is None or IDS not in data.inputs:
            return size
        row: int = data.inputs[IDS].shape[1] * max(self._reader.per_token, 1) * np.dtype(np.float32).itemsize
        return max(1, min(size, BUDGET // row))

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Outputs by name, for the inputs that `feeds` gave.

        Raises:
            AtpatchError: ATP052 where onnxruntime fails.
        """
        try:
            results = self._session.run(list(outputs), {**self._controls, **feeds})
        except Exception as error:  # onnxruntime's exception classes have no common base class
            raise RUNTIME_REFUSES(_first_line(error), "check shapes and types of the arrays in the data set") from error
        found = dict(zip(outputs, results, strict=True))
        if self._reader is not None and (name := self._reader.output) in found:
            found[name] = self._reader.read(found[name], feeds)
        return found


_NUMPY: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bool)": np.dtype(np.bool_),
    **{f"tensor({kind}{bits})": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


def head_width(model: onnx.ModelProto) -> int:
    """The width of a head, read off the attention sites; 0 where no site says it."""
    sites, _ = find_sites(model)
    widths: list[int] = [site.head_dim for site in sites if site.head_dim]
    return widths[0] if widths else 0


def why_not_run(model: onnx.ModelProto, folder: Path, data: DataSet, row: int = 0) -> str | None:
    """Why one row of the data does not run here, or onnxruntime is not there; None where it runs."""
    try:
        runner = Runner(model, folder)
        runner.run(runner.feeds(data, np.array([row])), runner.outputs[:1])
    except (ModelError, PlanError) as error:  # ATP052 and ATP050; a mistake of ours is no reason, and goes on up
        return error.what
    return None


def _cast(name: str, array: NDArray[Any], wanted: str) -> NDArray[Any]:
    """Whether a type may be cast: between widths of one kind, and from integer to float, but never float to integer."""
    if wanted not in _NUMPY:
        return array
    dtype = _NUMPY[wanted]
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise DATA_MALFORMED(f"input {name!r} is {array.dtype} in the data set, the graph takes {wanted}")
    return array.astype(dtype, copy=False)


def _numpy(word: str) -> np.dtype[Any]:
    return _NUMPY.get(word, np.dtype(np.float32))


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
