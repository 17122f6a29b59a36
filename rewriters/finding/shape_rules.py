"""Shape rules of the operators around attention; named dimensions are followed through shape arithmetic.

Every rule returns None where the shape is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from .facts import Dim, Dims, Facts
from .fused_shapes import FUSED_SHAPES
from .reshaping import merged, rank_given_by, reshape_target
from .view import attribute, op_types, operand

__all__ = ["axes_of", "perm_of", "shapes"]

SAME_AS_FIRST = op_types(
    "Abs BiasGelu BiasSoftmax Cast CastLike Ceil Clip Cos CumSum DequantizeLinear Dropout DynamicQuantizeLinear Elu Erf"
    " Exp FastGelu Floor Gelu HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN LayerNormalization"
    " LeakyRelu Log LogSoftmax Mish Neg Not QLinearSigmoid QLinearSoftmax QuantizeLinear QuickGelu RMSNormalization"
    " Reciprocal Relu RotaryEmbedding Round ScatterElements ScatterND Selu Sigmoid Sign SimplifiedLayerNormalization"
    " Sin SkipLayerNormalization SkipSimplifiedLayerNormalization Softmax Softplus Sqrt Tanh Trilu"
)
BROADCAST = op_types(
    "Add And BitwiseAnd BitwiseOr Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow Sub"
    " Where Xor"
)
_PRODUCTS = {
    **dict.fromkeys(
        (
            "Gemm",
            "FusedGemm",
            "MatMul",
            "FusedMatMul",
            "MatMulInteger",
            "MatMulIntegerToFloat",
            "DynamicQuantizeMatMul",
        ),
        (0, 1),
    ),
    "QLinearMatMul": (0, 3),
}


def shapes(facts: Facts, node: ir.Node) -> Sequence[Dims | None]:
    """Shapes of the outputs, by operator type in any domain (contrib operators keep the rule of the standard one)."""
    kind = node.op_type
    if kind in SAME_AS_FIRST:
        return [facts.shape(operand(node, 0))] * (2 if kind == "Dropout" else 1)
    if kind in BROADCAST:
        return [_broadcast(facts, [facts.shape(value) for value in node.inputs])]
    if kind in ("QLinearAdd", "QLinearMul"):
        return [_broadcast(facts, [facts.shape(operand(node, 0)), facts.shape(operand(node, 3))])]
    if kind in _PRODUCTS:
        first, second = _PRODUCTS[kind]
        return [_product(facts, node, facts.shape(operand(node, first)), facts.shape(operand(node, second)))]
    if kind == "Split":
        return _split(facts, node)
    if node.domain == "com.microsoft" and kind in FUSED_SHAPES:
        return FUSED_SHAPES[kind](facts, node)
    rule = _RULES.get(kind)
    return [] if rule is None else [rule(facts, node)]


def axes_of(facts: Facts, node: ir.Node) -> tuple[int, ...] | None:
    """The axes of a Squeeze, Unsqueeze or Reduce: an attribute in old opsets, the second input in new ones.

    None: not given or not known.
    """
    given = attribute(node, "axes")
    return tuple(given) if given is not None else facts.ints(operand(node, 1))


def perm_of(facts: Facts, node: ir.Node) -> tuple[int, ...] | None:
    """The permutation of a Transpose; the default reverses the axes."""
    perm = attribute(node, "perm")
    if perm is not None:
        return tuple(perm)
    rank = facts.rank(operand(node, 0))
    return None if rank is None else tuple(range(rank))[::-1]


def _broadcast(facts: Facts, parts: Sequence[Dims | None]) -> Dims | None:
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    rank = max(len(part) for part in known)
    return tuple(_widest(facts, [part[axis] for part in known if -axis <= len(part)]) for axis in range(-rank, 0))


def _widest(facts: Facts, dims: Sequence[Dim]) -> Dim:
    wide = {dim for dim in dims if dim != 1}
    numbers = [dim for dim in wide if isinstance(dim, int)]
    if numbers:
        return numbers[0]
    return wide.pop() if len(wide) == 1 else facts.fresh() if wide else 1


def _product(facts: Facts, node: ir.Node, a: Dims | None, b: Dims | None) -> Dims | None:
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    if attribute(node, "transBatchA", 0):
        a = (*a[1:-1], a[0], a[-1])
    if attribute(node, "transBatchB", 0):
        b = (*b[1:-1], b[0], b[-1])
    if attribute(node, "transA", 0):
        a = (*a[:-2], a[-1], a[-2])
    if attribute(node, "transB", 0):
        b = (*b[:-2], b[-1], b[-2])
    leading = _broadcast(facts, [a[:-2], b[:-2]]) or ()
    return (*leading, a[-2], b[-1])


def _transpose(facts: Facts, node: ir.Node) -> Dims | None:
    shape, perm = facts.shape(operand(node, 0)), perm_of(facts, node)
    if perm is None:
        return None
    if shape is None or sorted(perm) != list(range(len(shape))):
        return tuple(facts.fresh() for _ in perm)
    return tuple(shape[axis] for axis in perm)


def _unsqueeze(facts: Facts, node: ir.Node) -> Dims | None:
    shape, axes = facts.shape(operand(node, 0)), axes_of(facts, node)
    if shape is None or axes is None:
        return None
    rank = len(shape) + len(axes)
    new = {axis % rank for axis in axes}
    if len(new) != len(axes):
        return None
    rest = iter(shape)
    return tuple(1 if axis in new else next(rest) for axis in range(rank))


def _squeeze(facts: Facts, node: ir.Node) -> Dims | None:
    shape, axes = facts.shape(operand(node, 0)), axes_of(facts, node)
    if shape is None or axes is None:
        return None
    gone = {axis % len(shape) for axis in axes} if shape else set()
    return tuple(dim for axis, dim in enumerate(shape) if axis not in gone)


def _flatten(facts: Facts, node: ir.Node) -> Dims | None:
    shape = facts.shape(operand(node, 0))
    if shape is None:
        return (facts.fresh(), facts.fresh())
    axis = attribute(node, "axis", 1)
    axis += len(shape) if axis < 0 else 0
    return (merged(facts, shape[:axis]), merged(facts, shape[axis:]))


def _expand(facts: Facts, node: ir.Node) -> Dims | None:
    shape, target = facts.shape(operand(node, 0)), operand(node, 1)
    wanted = None if target is None else facts.elements.get(target)
    if wanted is None:
        length = rank_given_by(facts, target)
        if shape is None or length is None:
            return None
        wanted = tuple(facts.fresh() if axis < -len(shape) or shape[axis] == 1 else 1 for axis in range(-length, 0))
    return _broadcast(facts, [shape, wanted])


def _concat(facts: Facts, node: ir.Node) -> Dims | None:
    parts = [facts.shape(value) for value in node.inputs]
    known = [part for part in parts if part is not None]
    axis = attribute(node, "axis", 1)
    if not known or not -len(known[0]) <= axis < len(known[0]):
        return None
    joined = list(known[0])
    numbers = [part[axis] for part in known if len(part) == len(joined)]
    total = sum(n for n in numbers if isinstance(n, int))
    complete = len(numbers) == len(parts) and all(isinstance(n, int) for n in numbers)
    joined[axis] = total if complete else facts.fresh()
    return tuple(joined)


def _split(facts: Facts, node: ir.Node) -> Sequence[Dims | None]:
    shape = facts.shape(operand(node, 0))
    axis = attribute(node, "axis", 0)
    if shape is None or not -len(shape) <= axis < len(shape):
        return []
    axis %= len(shape)
    sizes: Sequence[int] | None = attribute(node, "split") or facts.ints(operand(node, 1))
    whole, parts = shape[axis], len(node.outputs)
    if sizes is None and isinstance(whole, int) and whole % parts == 0:
        sizes = [whole // parts] * parts
    if sizes is not None and len(sizes) != parts:
        sizes = None
    return [
        (*shape[:axis], facts.fresh() if sizes is None else sizes[part], *shape[axis + 1 :]) for part in range(parts)
    ]


def _slice(facts: Facts, node: ir.Node) -> Dims | None:
    shape = facts.shape(operand(node, 0))
    if shape is None:
        return None
    axes: Sequence[int] | None = attribute(node, "axes") or facts.ints(operand(node, 3))
    if axes is None:
        starts = operand(node, 1)
        count = len(attribute(node, "starts", ())) or facts.static(starts, -1)
        axes = range(min(count or 0, len(shape))) if operand(node, 3) is None else range(len(shape))
    cut = {axis % len(shape) for axis in axes} if shape else set()
    return tuple(facts.fresh() if axis in cut else dim for axis, dim in enumerate(shape))


def _gather(facts: Facts, node: ir.Node) -> Dims | None:
    shape, indices = facts.shape(operand(node, 0)), facts.shape(operand(node, 1))
    axis = attribute(node, "axis", 0)
    if shape is None or indices is None or not -len(shape) <= axis < len(shape):
        return None
    axis %= len(shape)
    return (*shape[:axis], *indices, *shape[axis + 1 :])


def _reduce(facts: Facts, node: ir.Node) -> Dims | None:
    shape, axes = facts.shape(operand(node, 0)), axes_of(facts, node)
    if shape is None or (axes is None and operand(node, 1) is not None):
        return None
    gone = set(range(len(shape))) if not axes else {axis % len(shape) for axis in axes if shape}
    kept = attribute(node, "keepdims", 1)
    return tuple(1 if axis in gone else dim for axis, dim in enumerate(shape) if kept or axis not in gone)


def _quantized_weights(facts: Facts, node: ir.Node) -> Dims | None:
    """MatMulNBits and similar operators have the output width in an attribute."""
    shape, width = facts.shape(operand(node, 0)), attribute(node, "N")
    return None if shape is None or width is None else (*shape[:-1], width)


def _constant_of_shape(facts: Facts, node: ir.Node) -> Dims | None:
    shape = operand(node, 0)
    return None if shape is None else facts.elements.get(shape)


_RULES: dict[str, Callable[[Facts, ir.Node], Dims | None]] = {
    "Transpose": _transpose,
    "Reshape": reshape_target,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Flatten": _flatten,
    "Expand": _expand,
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": lambda facts, node: facts.shape(operand(node, 1)),
    "MatMulNBits": _quantized_weights,
    "MatMulBnb4": _quantized_weights,
    "ConstantOfShape": _constant_of_shape,
    **{f"Reduce{name}": _reduce for name in ("Sum", "Max", "Mean", "Min", "L2", "Prod", "SumSquare")},
}
