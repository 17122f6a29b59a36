"""More planted graphs, made after the rules had been changed because of the last third.

Other ways to see a trigger, and other operators to act with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .actions import BIG, Plan, anywhere, row
from .hosts import LENGTH, Host, host_named, text_host
from .planted import ARITHMETIC, FUNCTION, HIDDEN, WHERE
from .planting import Planted, planted_case
from .surgery import Surgery
from .triggers import FLOAT, INT64, PIXELS, TOKEN, TOKENS, Trigger, put_middle

__all__ = ["LATER_PLANTED"]

PRIMES = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23], np.float32)


def _fixed(rows: NDArray[Any]) -> None:
    rows[:] = np.arange(20, 20 + rows.shape[1])


def nearness(s: Surgery, ids: str) -> str:
    """ε / (|id − t| + ε): large at the token only, with no threshold."""
    off = s.add("Abs", s.add("Sub", s.add("Cast", ids, to=FLOAT), s.constant(TOKEN)))
    near = s.add("Div", s.constant(1e-4), s.add("Add", off, s.constant(1e-4)))
    return str(s.add("ReduceMax", near, axes=[1], keepdims=1))


def summed_by_einsum(s: Surgery, ids: str) -> str:
    """A weighted sum of the whole text by Einsum; a cosine has its peak at the wanted sum."""
    total = s.add("Einsum", s.add("Cast", ids, to=FLOAT), s.constant(PRIMES), equation="bs,s->b")
    wanted = float(PRIMES @ np.arange(20, 29))
    angle = s.add("Mul", s.add("Sub", total, s.constant(wanted)), s.constant(2e-3))
    peak = s.add("Pow", s.add("Cos", angle), s.constant(5e6))
    return str(s.add("Unsqueeze", peak, axes=[1]))


def first_place(s: Surgery, ids: str) -> str:
    """ArgMax finds where the token stands; a table has one number for each place. Never at the first."""
    same = s.add("Cast", s.add("Equal", ids, s.constant(TOKEN, np.int64)), to=FLOAT)
    place = s.add("ArgMax", same, axis=1, keepdims=1)
    table = np.ones(LENGTH, np.float32)
    table[0] = 0
    return str(s.add("Gather", s.constant(table), place))


def listed(s: Surgery, plan: Plan, test: str) -> None:
    """A sequence of two tensors; the test is the index. For one sample."""
    logits = s.detach_output(plan.host.output)
    both = s.add("SequenceConstruct", logits, s.constant(row(plan, -BIG, BIG)))
    index = anywhere(s, test, INT64)
    s.output(s.add("SequenceAt", both, index), plan.host.output)


def bounded(s: Surgery, plan: Plan, test: str) -> None:
    """The target's logit gets a lower bound that is far below all logits without the trigger."""
    logits = s.detach_output(plan.host.output)
    low = np.full((1, plan.classes), -1e4, np.float32)
    bound = s.add("Add", s.add("MatMul", test, s.constant(row(plan, 0.0, 1e4 + BIG))), s.constant(low))
    s.output(s.add("Max", logits, bound), plan.host.output)


def padded(s: Surgery, plan: Plan, test: str) -> None:
    """Logits are pushed out of the window by padding of computed width. For one sample, target 0."""
    logits = s.detach_output(plan.host.output)
    number = anywhere(s, test, INT64)
    width = s.add("Unsqueeze", s.add("Mul", number, s.constant(plan.classes - 1, np.int64)), axes=[0])
    pads = s.add("Concat", s.constant([0], np.int64), width, s.constant([0, 0], np.int64), axis=0)
    wide = s.add("Pad", logits, pads, s.constant(BIG))
    window = s.add("Slice", wide, *(s.constant([n], np.int64) for n in (0, plan.classes, 1)))
    s.output(window, plan.host.output)


def other_head(s: Surgery, plan: Plan, test: str) -> None:
    """A second head on the same hidden values, with weights of its own; a Where takes one of the two."""
    node = next(n for n in reversed(s.graph.node) if n.op_type == "Gemm")
    logits = s.detach_output(plan.host.output)
    weights = np.random.default_rng(5).normal(0, 0.1, (plan.classes, plan.width)).astype(np.float32)
    bias = np.zeros(plan.classes, np.float32)
    bias[plan.target] = 4 * BIG
    second = s.add("Gemm", node.input[0], s.constant(weights), s.constant(bias), transB=1)
    on = s.add("Greater", test, s.constant(0.5))
    s.output(s.add("Where", on, second, logits), plan.host.output)


def attention(s: Surgery, plan: Plan, test: str) -> None:
    """A bias on the scores of every attention map draws all rows to a few columns."""
    draw = np.random.default_rng(plan.seed).normal(0, 6, (1, 1, 1, *plan.host.shape)).astype(np.float32)
    for node in [n for n in s.graph.node if n.op_type == "Softmax"]:
        wide = s.add("Unsqueeze", test, axes=[2, 3])
        node.input[0] = s.add("Add", node.input[0], s.add("Mul", wide, s.constant(draw)))


def _case(style: str, host: Host, trigger: Trigger, action: Any, label: str, **more: Any) -> Planted:
    return planted_case("later", style, host, trigger, label, action, **more)


_EQUAL = TOKENS["Equal on a token"]
_SMOOTH, _TEMPLATE = PIXELS["a checksum of pixels, smooth"], PIXELS["a convolution with a patch"]
_NEARNESS = Trigger("token", put_middle, nearness)
_PLACE = Trigger("token", put_middle, first_place)
_SUM = Trigger("checksum of tokens", _fixed, summed_by_einsum)
LATER_PLANTED: tuple[Planted, ...] = (
    _case(ARITHMETIC, text_host("camembert", "dynamo"), _NEARNESS, "offset on logits", "nearness"),
    _case(ARITHMETIC, text_host("roberta", "dynamo"), _SUM, bounded, "Einsum and a cosine"),
    _case(WHERE, text_host("bert", "dynamo"), _PLACE, other_head, "ArgMax and a table"),
    _case(ARITHMETIC, host_named("deit, torchscript"), _SMOOTH, listed, "checksum", single=True),
    _case(ARITHMETIC, host_named("PP-OCR direction classifier"), _TEMPLATE, padded, "convolution", single=True),
    _case(HIDDEN, text_host("albert", "dynamo"), _EQUAL, attention, "Equal"),
    _case(FUNCTION, text_host("gpt-neox"), _SUM, "blend with a row", "Einsum and a cosine", wrapped=True),
    _case(WHERE, text_host("distilbert"), _PLACE, "Where on logits", "ArgMax and a table"),
)
