"""The model that a debugging set is made for: its graph, its predictions, its first attention site."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.editing.fused_sites import lower_fused_sites
from rewriters.editing.patcher import is_patched
from rewriters.finding.finder import find_sites
from rewriters.model.forms import Model
from rewriters.names import STEERING
from rewriters.sites import Site

from ..errors import ALREADY_PATCHED, BAD_OPTION, COLUMNS_UNCLEAR, DATA_MALFORMED
from ..inference.capture import canonical_values
from ..inference.datasets import Arrays, DataSet, Ints
from ..inference.model_reading import Reading, find_reading
from ..inference.output_kinds import CLASSES, ScoreThreshold
from ..inference.reading import Expected, Twins
from ..inference.runner import Runner, expose
from ..inspection.encoder_decoder import read_answering
from ..inspection.inspector import no_site

__all__ = ["GraphInput", "Subject"]

BATCH = 64
SAME = 1e-4
"""Relative to the largest value. Smaller differences of a value vector are rounding."""


@dataclass(frozen=True)
class GraphInput:
    """A graph input: its shape (dynamic axes are names or None) and its numpy dtype."""

    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any]


class Subject:
    """A model to run.

    Args:
        model: path, `onnx.ModelProto` or `onnx_ir.Model`, not patched; or a folder with an encoder and a decoder.
        output_name: of the class scores; None: the first float output of rank 2, or what is called like an embedding.
        threads: of onnxruntime.
        answer_tokens: of a causal decoder, class → token.

    Raises:
        AtpatchError: ATP012 for a patched model, and what reading and loading raise.
    """

    def __init__(
        self,
        model: Model,
        output_name: str | None = None,
        threads: int | None = None,
        answer_tokens: Sequence[int] | None = None,
    ) -> None:
        loaded = read_answering(model)
        if is_patched(loaded.proto):
            raise ALREADY_PATCHED("a debugging set is made for the original model", "unpatch it first")
        self.proto, self.folder = loaded.proto, loaded.folder
        self._name, self._threads, self.answer_tokens = output_name, threads, answer_tokens
        self.progress: Callable[[str, int, int], None] | None = None
        self._runner: Runner | None = None
        self._reading: Reading | None = None
        self._made: frozenset[str] | None = None
        self._read: tuple[Site, Runner] | None = None
        self.tokenizer: Path | None = None
        self.output_kind = CLASSES
        self.score_threshold: ScoreThreshold | None = None
        constants = {tensor.name for tensor in self.proto.graph.initializer}
        self.inputs = {
            value.name: _describe(value)
            for value in self.proto.graph.input
            if value.name not in constants and value.name not in STEERING
        }

    def complete(self, data: DataSet) -> DataSet:
        """The data set with only the graph's inputs, and labels where the model has classes.

        Raises:
            AtpatchError: ATP056 where an input is missing.
        """
        wanted = [name for name in self.inputs if name not in self.made]
        missing = [name for name in wanted if name not in data.inputs]
        if missing:
            raise DATA_MALFORMED(
                f"the data set lacks the graph's input {', '.join(map(repr, missing))}; it has {', '.join(data.inputs)}"
            )
        inputs = {name: np.asarray(data.inputs[name]) for name in wanted}
        if self.by_twin:
            return DataSet(inputs, output_kind=self.set_kind)
        return DataSet(inputs, labels=data.labels, target=data.target)

    @property
    def made(self) -> frozenset[str]:
        """Inputs that no data set holds: of a decoder, all that follow from its tokens."""
        if self._made is None:
            decoder = self._open().decoder
            self._made = decoder.made if decoder is not None and self.answers else frozenset()
        return self._made

    @property
    def answers(self) -> bool:
        """Whether the model is run as a decoder, and its prediction is the first token of an answer."""
        decoder = self._open().decoder
        return decoder is not None and bool(decoder.caches or self.answer_tokens or decoder.has_encoder)

    @property
    def has_encoder(self) -> bool:
        """Whether the model is an encoder-decoder in one graph."""
        decoder = self._open().decoder
        return decoder is not None and decoder.has_encoder

    def output(self, data: DataSet) -> str:
        """Name of the output that is judged."""
        return self._read_as(data).output

    @property
    def by_twin(self) -> bool:
        """Whether the model has no classes, so that rows are judged by the answers to their clean twins."""
        return self.output_kind != CLASSES

    @property
    def set_kind(self) -> str | None:
        """What a data set of the model says of its answers."""
        return self.output_kind if self.by_twin else None

    @property
    def folders(self) -> list[Path]:
        """Where files about the model and its tokenizer lie."""
        return [self.folder, *([] if self.tokenizer is None else [self.tokenizer])]

    def expected(self, clean: Arrays, attacked: Arrays, clean_row: Ints) -> Expected:
        """What attacked rows should be answered, by the answers to the clean rows; of a model without classes.

        Raises:
            AtpatchError: ATP056 where the clean rows are too few.
        """
        values, rows = self.values(clean), DataSet(clean)
        return self._read_as(rows).expected(values, Twins.triggered_set(clean_row), rows, DataSet(attacked))

    def rank_among(self, clean: DataSet) -> None:
        """Where the score threshold is a rank, it is one among these rows: all clean ones, before any other is run."""
        if self.ranks:
            self._read_as(clean, ranks=True)

    @property
    def ranks(self) -> bool:
        """Whether the score threshold is a rank."""
        return isinstance(self.score_threshold, str)

    def scores(self, inputs: Arrays) -> NDArray[np.float32]:
        """Class scores (N, C) of graph inputs."""
        data, values = DataSet(inputs), self.values(inputs)
        classes = self._read_as(data).fixed
        return values if classes is None else classes.scores(np.arange(len(data)), values)

    def values(self, inputs: Arrays) -> NDArray[np.float32]:
        """What is read off the output (N, ...) for graph inputs."""
        data = DataSet(inputs)
        reading = self._read_as(data)
        rows, done = np.arange(len(data)), 0
        parts = []
        runner = self._open().answering(reading.reader)
        for chunk, outputs in runner.batches(data, rows, BATCH, [reading.output]):
            parts.append(outputs[reading.output][: len(chunk)])
            done += len(chunk)
            if self.progress is not None:
                self.progress("predicting", done, len(data))
        return np.concatenate(parts).astype(np.float32)

    def predictions(self, inputs: Arrays) -> Ints:
        """(N,) argmax of `scores`."""
        return np.asarray(self.scores(inputs).argmax(1), np.int64)

    def touched(self, before: Arrays, after: Arrays) -> NDArray[np.bool_]:
        """(N, K): key columns whose value vectors at the first site differ between two versions of the same rows.

        Raises:
            AtpatchError: ATP010 without a site, ATP084 where no site has one value vector for each token.
        """
        site, runner = self._first_site()
        count = len(DataSet(before))
        found = []
        for inputs in (before, after):
            rows = np.arange(count)
            batches = runner.batches(DataSet(inputs), rows, BATCH, [site.values])
            values = [(canonical_values(site, outputs[site.values]), len(chunk)) for chunk, outputs in batches]
            if any(len(array) < size or len(array) > (runner.fixed_batch or size) for array, size in values):
                raise COLUMNS_UNCLEAR(f"the leading axis at {site.id} counts windows, not samples")
            found.append(np.concatenate([array[:size] for array, size in values]))
        moved = np.abs(found[1] - found[0]).max((1, 3))
        return np.asarray(moved > SAME * np.abs(found[0]).max((1, 2, 3))[:, None])

    def _first_site(self) -> tuple[Site, Runner]:
        """The first site whose value vectors can be read, and a session that gives them; made once, for many rows."""
        if self._read is None:
            sites, rejected = find_sites(self.proto)
            if not sites:
                raise no_site("the model", sites, rejected)
            opened, readable = lower_fused_sites(self.proto, [site for site in sites if not site.where])
            if not readable:
                raise COLUMNS_UNCLEAR("all sites lie inside subgraphs or functions")
            site = readable[0]
            self._read = site, Runner(expose(opened, [(site.values, site.dtype)]), self.folder, self._threads)
        return self._read

    def _read_as(self, data: DataSet, ranks: bool = False) -> Reading:
        """How the model is read; found on the first rows that are asked, whatever they are."""
        if self._reading is None:
            if self.ranks and not ranks:
                raise BAD_OPTION(f"{self.score_threshold}: clean rows for a rank are not known here", "give a score")
            self._reading = find_reading(
                self._open(),
                data,
                self.output_kind,
                output_name=self._name,
                answer_tokens=self.answer_tokens,
                score_threshold=self.score_threshold,
                folders=(self.folder,),
            )
        return self._reading

    def _open(self) -> Runner:
        if self._runner is None:
            self._runner = Runner(self.proto, self.folder, self._threads)
        return self._runner


_DTYPES: Mapping[int, np.dtype[Any]] = {
    number: onnx.helper.tensor_dtype_to_np_dtype(number)
    for number in onnx.TensorProto.DataType.values()
    if number not in (onnx.TensorProto.UNDEFINED,)
}


def _describe(value: onnx.ValueInfoProto) -> GraphInput:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)
    return GraphInput(shape, _DTYPES.get(tensor.elem_type, np.dtype(np.float32)))
