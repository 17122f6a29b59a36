"""Writing nodes: an `Emitter` appends operators to a list and knows what the opset at hand lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from .model.constant_pool import ConstantPool
from .names import branch_name, make_name

__all__ = ["BATCH_DIMS_FROM", "ConstantPool", "Emitter"]

BATCH_DIMS_FROM = 12
"""First opset whose GatherND has `batch_dims`."""

_SHAPE_OF_SOME_FROM = 15
"""First opset whose Shape has `start` and `end`. Branch-free graphs do without: symbolic inference ignores them."""

# From these opsets on, the operator takes its axes as an input instead of an attribute.
_AXES_AS_INPUT = {
    "ReduceSum": 13,
    "ReduceMean": 18,
    "ReduceMax": 18,
    "ReduceMin": 18,
    "ReduceL2": 18,
    "Unsqueeze": 13,
    "Squeeze": 13,
}


class Emitter:
    """Appends nodes under `atpatch/<site>/`; every method returns the name of the value it made.

    Args:
        site: site id; becomes part of every name.
        opset: version of the default domain in the body written to.
        pool: where constants go.
        shared: values of this body that later sites may reuse, by key.
        conditional: whether an If may be emitted; off for runtimes and tools that want no control flow. There no Cast
            to float32 is emitted either, but of half precision: a tool that takes all float32 for float16 then finds
            nothing that stays float32.
        top: writes in front of the body, see `ahead`.
    """

    def __init__(
        self,
        site: str,
        opset: int,
        pool: ConstantPool,
        shared: dict[str, str],
        *,
        conditional: bool = True,
        top: Emitter | None = None,
    ) -> None:
        self.site = site
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self._pool = pool
        self._root = self.nodes if top is None else top.nodes
        self._shared = shared
        # what is written for all sites has the name of the first one
        self._used: dict[str, int] = top._used if top is not None and top.site == site else {}
        self._outer: Emitter | None = None
        self._top = top
        self.conditional = conditional

    @property
    def pool(self) -> ConstantPool:
        """Where its constants go."""
        return self._pool

    @property
    def written(self) -> dict[str, str]:
        """A copy of `shared`, for what is written later in the same body."""
        return dict(self._shared)

    def branch(self, *, apart: bool = False) -> Emitter:
        """An emitter for a subgraph: own node list, names and constants in common with this one.

        Args:
            apart: what is shared in there stays in there, since it is made of values that only the subgraph has.
        """
        inner = Emitter(self.site, self.opset, self._pool, {}, conditional=self.conditional)
        inner._root, inner._used = self._root, self._used
        inner._outer = None if apart else self._outer or self
        inner._top = None if apart else self._top
        return inner

    def value(self, role: str) -> str:
        """A fresh name `atpatch/<site>/<role>`."""
        count = self._used.get(role, 0)
        self._used[role] = count + 1
        return make_name(self.site, role, count)

    def constant(self, array: ArrayLike, dtype: Any = np.float32) -> str:
        # Constant nodes belong in front of the body, where everything that is written later can see them.
        return self._pool.name(np.asarray(array, dtype), self._root)

    def shared(self, key: str, make: Callable[[Emitter], str]) -> str:
        """The value made for `key` by an earlier site of this body, else a new one, written in front of the branch at
        hand.
        """
        body = self._outer or self
        if key not in body._shared:
            body._shared[key] = make(body)
        return body._shared[key]

    def ahead(self, key: str, make: Callable[[Emitter], str]) -> str:
        """As `shared`, for what is made only of inputs and controls: it is written in front of the whole body, so that
        every node can read it.
        """
        return self.shared(key, make) if self._top is None else self._top.shared(key, make)

    def once(self, key: str, make: Callable[[], str]) -> str:
        """As `shared`, but in a branch among what the branch itself has written: small values that live through a body
        cost more than a branch that makes its own (see `subgraphs.site`).
        """
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def op(self, op_type: str, *inputs: str, role: str | None = None, **attributes: Any) -> str:
        """One operator with one output, named after its role (the operator's own name by default)."""
        name = self.value(role or op_type.lower())
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def either(
        self, condition: str, then: Callable[[Emitter], str], otherwise: Callable[[Emitter], str], dtype: int, role: str
    ) -> str:
        """An If with one output of an element type; `then` and `otherwise` write the branches."""
        name = self.value(role)
        branches = {}
        for key, write in (("then_branch", then), ("else_branch", otherwise)):
            inner = self.branch()
            made = helper.make_tensor_value_info(write(inner), dtype, None)
            branches[key] = helper.make_graph(inner.nodes, branch_name(name, key), [], [made])
        self.nodes.append(helper.make_node("If", [condition], [name], name=name, **branches))
        return name

    def copy(self, node: onnx.NodeProto, inputs: Sequence[str], role: str) -> str:
        """A copy of a node of the model, attributes and metadata included, on other inputs."""
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        name = self.value(role)
        twin.name = name
        del twin.input[:], twin.output[:]
        twin.input.extend(inputs)
        twin.output.append(name)
        self.nodes.append(twin)
        return name

    def keep(self, node: onnx.NodeProto, role: str) -> onnx.NodeProto:
        """The model's own node under a name of ours, its first output as `<role>_output`; other outputs keep their
        names.
        """
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name = self.value(role)
        twin.output[0] = self.value(f"{role}_output")
        self.nodes.append(twin)
        return twin

    def _with_axes(self, op_type: str, x: str, axes: Sequence[int], role: str | None, **attributes: Any) -> str:
        if self.opset >= _AXES_AS_INPUT[op_type]:
            return self.op(op_type, x, self.constant(list(axes), np.int64), role=role, **attributes)
        return self.op(op_type, x, role=role, axes=list(axes), **attributes)

    def reduce(self, kind: str, x: str, *axes: int, keepdims: bool = True, role: str | None = None) -> str:
        """`ReduceSum`, `ReduceMean`, `ReduceMax`, `ReduceMin` or `ReduceL2` over axes."""
        return self._with_axes(f"Reduce{kind}", x, axes, role, keepdims=int(keepdims))

    def peak(self, x: str, *axes: int, keepdims: bool = True, role: str | None = None) -> str:
        """Above a bar near 0 where any number is, of numbers that are not negative: their maximum, or in branch-free
        graphs their sum, whose shape onnxruntime's symbolic inference knows at every opset.
        """
        return self.reduce("Max" if self.conditional else "Sum", x, *axes, keepdims=keepdims, role=role)

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self._with_axes("Unsqueeze", x, axes, None)

    def squeeze(self, x: str, *axes: int) -> str:
        return self._with_axes("Squeeze", x, axes, None)

    def cast(self, x: str, dtype: int) -> str:
        return self.op("Cast", x, to=dtype)

    def float(self, x: str) -> str:
        return self.cast(x, TensorProto.FLOAT)

    def number(self, x: str) -> str:
        """A bool as float32, 0 or 1."""
        return self.float(x) if self.conditional else self.op("Where", x, self.constant(1.0), self.constant(0.0))

    def at_least(self, x: str, least: ArrayLike) -> str:
        """x, but no number below `least`.

        Not by Max: some converters to half precision leave it, and its constants, in float32.
        """
        return self.op("Clip", x, self.constant(least))

    def at_most(self, x: str, most: int) -> str:
        """Whole numbers (1,) int64, but none above `most`. Before opset 12 Min takes only floating-point numbers."""
        bound = self.constant([most], np.int64)
        if self.opset >= 12:
            return self.op("Min", bound, x)
        return self.op("Where", self.op("Less", bound, x), bound, x)

    def top(
        self, x: str, count: str, axis: int, role: str, places: str = "order", **attributes: int
    ) -> tuple[str, str]:
        """The `count` largest numbers along an axis in falling order, and where they are, under the role `places`."""
        values = self.op("TopK", x, count, axis=axis, role=role, **attributes)
        where = self.value(places)
        self.nodes[-1].output.append(where)
        return values, where

    def strided(self, x: str, axis: int, step: int) -> str:
        """x[::step] along an axis."""
        bounds = [self.constant([number], np.int64) for number in (0, np.iinfo(np.int64).max, axis, step)]
        return self.op("Slice", x, *bounds, role="some_rows")

    def ones(self, *parts: str | int) -> str:
        """Float32 ones of a shape, given as for `shape`."""
        one = numpy_helper.from_array(np.ones(1, np.float32))
        return self.op("ConstantOfShape", self.shape(*parts), value=one)

    def size(self, size: str) -> str:
        """One dimension (1,) int64 as float32."""
        return self.float(size) if self.conditional else self.reduce("Sum", self.ones(size), 0)

    def dims(self, x: str, start: int, end: int | None = None) -> str:
        """Dimensions [start, end) of x as a 1-D int64 tensor."""
        if self.opset >= _SHAPE_OF_SOME_FROM and self.conditional:
            bounds: dict[str, Any] = {"start": start} | ({} if end is None else {"end": end})
            return self.op("Shape", x, **bounds)
        shape = self.op("Shape", x)
        stop = np.iinfo(np.int64).max if end is None else end
        return self.op("Slice", shape, self.constant([start], np.int64), self.constant([stop], np.int64))

    def shape(self, *parts: str | int) -> str:
        """A shape tensor from 1-D pieces and literal sizes."""
        pieces = [part if isinstance(part, str) else self.constant([part], np.int64) for part in parts]
        return pieces[0] if len(pieces) == 1 else self.op("Concat", *pieces, axis=0)

    def mask_of_values(self, mask: str) -> str:
        """(B, K) → (B, 1, K, 1), once for all sites that have the same mask."""
        return self.once(f"mask of values:{mask}", lambda: self.unsqueeze(mask, 1, 3))

    def kept_columns(self, mask: str) -> str:
        """(B, K) bool → (B, 1, K, 1) float32, 0 at the columns of the mask, else 1, once for all sites as above."""

        def make() -> str:
            return self.op("Where", self.mask_of_values(mask), self.constant(0.0), self.constant(1.0), role="kept")

        return self.once(f"kept columns:{mask}", make)

    def as_row(self, x: str) -> str:
        """(B, 1, K, 1) → (B, 1, 1, K). Not by Transpose: onnxruntime would fuse it into a product, and go through the
        whole graph again after each such change.
        """
        return self.op("Reshape", x, self.constant([0, 0, 1, -1], np.int64))

    def as_column(self, x: str) -> str:
        """(B, 1, 1, K) → (B, 1, K, 1)."""
        return self.op("Reshape", x, self.constant([0, 0, -1, 1], np.int64))

    def reshape(self, x: str, *parts: str | int) -> str:
        return self.op("Reshape", x, self.shape(*parts))
