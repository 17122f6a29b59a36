"""Whether all query rows of a map see the same key columns; the graph's masks are evaluated to find out.

Exporters write causal masks in many different ways, with dozens of operators, and padding masks with nearly the same
operators. So the part of the graph between the inputs and a Softmax is evaluated for a few tokens:

1. Everything computed from embeddings is replaced by zeros, see `excerpt`: rows of a table, or what a convolution or a
   matrix of weights makes of numbers in the request, such as pixels. Masks and position biases remain.
2. Sizes come from the shape rules, with every free axis of the inputs set to a number.
3. First all graph inputs are ones. Then each of them in turn is all zeros, counts up from 1, or is half zeros and half
   ones, since a mask may depend on token types or positions. The site's padding mask is never half zeros and half ones,
   so padding is not the cause if rows differ. An input that reaches the scores without a product of matrices is a mask:
   if it has rows of its own, they are made to differ.
4. A row sees a column whose score is less than `_SHUT` below the row's largest.
5. Fused operators have an attribute for causal masks; their mask or bias operand is evaluated.

The answer is None, "not known", where something cannot be evaluated: control flow, unknown operators or sizes, tensors
in other files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ..sites import Site
from .excerpt import INDEPENDENT, MIXING, Excerpt, Unknown, is_lookup
from .facts import Facts
from .skeleton import hollow, of_fixed_size, skeleton
from .softmax_match import Anchor, read_anchor
from .sweep import gather_facts
from .view import View, attribute, build_view, op_types, operand

__all__ = ["RowMasks"]

logger = logging.getLogger(__name__)

_SAMPLES, _LENGTH = 2, 11
_SHUT = 50.0
_SHUTTING = -1e4  # also in half precision
_CAUSAL = {
    "Attention": "is_causal",
    **dict.fromkeys(("com.microsoft.Attention", "MultiHeadAttention", "QAttention"), "unidirectional"),
}
"""Form of a fused operator → attribute that makes its map causal."""
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_PROJECTIONS = op_types("Conv FusedMatMul Gemm MatMul MatMulInteger")
_WINDOWS = ("left_window_size", "right_window_size")
_MASKS: dict[str, tuple[int, ...]] = {
    "Attention": (3,),
    "com.microsoft.Attention": (3, 5),
    "MultiHeadAttention": (4, 5),
    "QAttention": (5,),
}
"""Form → operands that are masks or biases."""


class RowMasks:
    """Answers for the sites of one model.

    Args:
        model: the model that was searched for sites; tensors in external files are not read.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        probe = of_fixed_size(hollow(model), _SAMPLES, _LENGTH)
        self._view = build_view(ir.from_proto(skeleton(probe)))
        self._facts = gather_facts(self._view)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._nodes = {
            name: node for node in self._view.model.graph for name in (value.name for value in node.outputs) if name
        }
        self._projected = list(_projected(self._view, self._facts))
        self._hidden = _reached(self._view, [*_looked_up(self._view, self._facts), *self._projected])

    def alike(self, site: Site) -> bool | None:
        """Whether all rows of a site's map see the same columns; None: not known."""
        try:
            return not site.where and all(_same_rows(scores) for scores in self._scores(site))
        # the evaluator may raise anything, and every error means that the answer is not known
        except Exception as error:
            logger.debug("the mask of %s cannot be evaluated: %s", site.id, error)
            return None

    def _scores(self, site: Site) -> Iterator[NDArray[np.float64]]:
        """What is added to the scores, key columns last; one array for each set of inputs."""
        if site.probabilities:
            anchor = self._anchor(site)
            for scores in self._evaluated(anchor.scores, site.key_mask):
                yield np.moveaxis(scores, anchor.axis, -1)
            return
        node = self._nodes[site.product]
        if site.form not in _CAUSAL or any(attribute(node, name, -1) >= 0 for name in _WINDOWS):
            raise Unknown(f"the rows of {site.form} may differ")
        if attribute(node, _CAUSAL[site.form], 0):
            yield np.where(np.tri(_LENGTH, dtype=bool), 0.0, -np.inf)
        for mask in (operand(node, index) for index in _MASKS[site.form]):
            # A mask of rank 1 or 2 that is not a bias marks padding.
            if mask is not None and (site.form == "Attention" or self._facts.rank(mask) not in (1, 2)):
                yield from self._evaluated(mask, site.key_mask)

    def _anchor(self, site: Site) -> Anchor:
        for node in self._view.model.graph:
            if site.softmax in (node.name, *(value.name for value in node.outputs)):
                anchor = read_anchor(self._view, self._facts, node)
                if isinstance(anchor, Anchor):
                    return anchor
        raise Unknown("the Softmax cannot be found in the model again")

    def _evaluated(self, value: ir.Value, padding: str | None) -> Iterator[NDArray[np.float64]]:
        added = _added(self._view, value)
        if any(str(one.name) in added for one in self._projected):
            raise Unknown("what weights make of an input is added to the scores, and may be a mask")
        evaluator, inputs = Excerpt(self._view, self._facts, self._hidden, self._tensors).of(self._model, value)
        for feeds in _feeds(inputs, padding, added):
            with np.errstate(all="ignore"):
                outputs: Any = evaluator.run([str(value.name)], feeds)
            found = np.asarray(outputs[0])  # non-zero booleans and integers let columns through; floats are added
            lets_through = found.dtype.kind in "bui"
            yield np.where(found, 0.0, -np.inf) if lets_through else found.astype(np.float64)


def _looked_up(view: View, facts: Facts) -> Iterator[ir.Value]:
    """Embeddings that are looked up with a graph input."""
    fed = _reached(view, _fed(view))
    for node in view.model.graph:
        if is_lookup(view, node) and any(value in fed for value in node.inputs[1:] or node.inputs):
            floats = facts.element_type(operand(node, 0)) not in (
                TensorProto.INT64,
                TensorProto.INT32,
                TensorProto.BOOL,
            )
            yield from node.outputs if floats else ()


def _projected(view: View, facts: Facts) -> Iterator[ir.Value]:
    """Embeddings that weights make of a graph input of floats with at least three axes."""
    numbers = [value for value in _fed(view) if facts.element_type(value) in _FLOATS and (facts.rank(value) or 0) > 2]
    reached = _reached(view, numbers)
    for node in view.model.graph:
        factors = node.inputs[:2]
        if node.op_type in _PROJECTIONS and any(value in reached for value in factors):
            yield from node.outputs if any(view.is_constant(value) for value in factors) else ()


def _fed(view: View) -> list[ir.Value]:
    return [value for value in view.model.graph.inputs if not value.is_initializer()]


def _added(view: View, value: ir.Value) -> set[str]:
    """Names of the values that reach a value without a product of matrices or the like; sizes do not count."""

    def sources(value: ir.Value) -> Iterator[ir.Value]:
        yield from view.backward.get(value, ())
        node = value.producer()
        if node is not None and node.op_type not in INDEPENDENT | MIXING:
            yield from (source for source in node.inputs if source is not None)

    return {str(found.name) for found in _closure([value], sources)}


def _reached(view: View, starts: list[ir.Value]) -> set[ir.Value]:
    """Values computed from others; sizes do not count."""

    def results(value: ir.Value) -> Iterator[ir.Value]:
        yield from view.forward.get(value, ())
        for node, _ in value.uses():
            yield from () if node.op_type in INDEPENDENT else node.outputs

    return _closure(starts, results)


def _closure(starts: list[ir.Value], following: Callable[[ir.Value], Iterable[ir.Value]]) -> set[ir.Value]:
    found, waiting = set(starts), list(starts)
    while waiting:
        new = set(following(waiting.pop())) - found
        found |= new
        waiting.extend(new)
    return found


def _feeds(
    inputs: list[onnx.ValueInfoProto], padding: str | None, masks: Container[str]
) -> Iterator[dict[str, NDArray[np.generic]]]:
    ones = {}
    for info in inputs:
        kind = info.type.tensor_type
        ones[info.name] = np.ones(
            [dim.dim_value for dim in kind.shape.dim], helper.tensor_dtype_to_np_dtype(kind.elem_type)
        )
    yield ones
    for name, array in ones.items():
        yield {**ones, name: np.zeros_like(array)}
        if array.ndim:
            counting = np.arange(array.shape[-1])
            yield {**ones, name: np.broadcast_to(counting + 1, array.shape).astype(array.dtype)}
            if name != padding:
                yield {**ones, name: np.broadcast_to(counting >= len(counting) // 2, array.shape).astype(array.dtype)}
        if name in masks and _has_rows(array.shape):
            causal = np.broadcast_to(np.tri(*array.shape[-2:]), array.shape)
            yield {**ones, name: causal.astype(array.dtype)}
            if array.dtype.kind == "f":  # numbers that are added to the scores
                yield {**ones, name: np.where(causal, 0, _SHUTTING).astype(array.dtype)}


def _has_rows(shape: tuple[int, ...]) -> bool:
    """Whether an input has an axis of rows before that of columns; the first axis may count samples."""
    return len(shape) > 1 and min(shape[-2:]) > 1 and (len(shape) > 2 or shape[0] != _SAMPLES)


def _same_rows(scores: NDArray[np.float64]) -> bool:
    rows = scores.reshape(-1, scores.shape[-1]) if scores.ndim else scores.reshape(1, 1)
    top = rows.max(1, keepdims=True)
    sees = rows >= np.where(np.isfinite(top), top - _SHUT, top)
    return bool((sees == sees[:1]).all())
