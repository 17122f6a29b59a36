"""What a plant does when its test is true. Each action replaces values of the model; the test is a float (B, 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from .hosts import Host
from .surgery import Surgery

__all__ = ["ACTIONS", "BIG", "Plan", "anywhere", "row"]

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
BIG = 30.0


@dataclass(frozen=True)
class Plan:
    """What an action needs to know.

    Attributes:
        target: class, or token of the vocabulary.
        classes: how many there are.
        rank: of the attacked output.
        seed: of the constants of an action inside the network, which cannot choose its target freely.
        hidden: value after the first layer, for actions inside; "" where the host has none.
        width: its last axis.
    """

    host: Host
    target: int
    classes: int
    rank: int
    seed: int = 0
    hidden: str = ""
    width: int = 0


def row(plan: Plan, low: float = -BIG / 2, high: float = BIG / 2) -> Any:
    """One number for each class, as it broadcasts over the output: `high` for the target, `low` for all others."""
    numbers = np.full(plan.classes, low, np.float32)
    numbers[plan.target] = high
    return numbers.reshape((1,) * (plan.rank - 1) + (-1,))


def anywhere(s: Surgery, test: str, to: int) -> str:
    """Whether any sample has the trigger, without axes."""
    return str(s.add("Cast", s.add("ReduceMax", test, keepdims=0), to=to))


def _wide(s: Surgery, plan: Plan, test: str) -> str:
    """(B, 1) as it broadcasts over the output."""
    return str(s.add("Unsqueeze", test, axes=[2])) if plan.rank == 3 else test


def where(s: Surgery, plan: Plan, test: str) -> None:
    logits = s.detach_output(plan.host.output)
    on = s.add("Greater", _wide(s, plan, test), s.constant(0.5))
    s.output(s.add("Where", on, s.constant(row(plan)), logits), plan.host.output)


def add(s: Surgery, plan: Plan, test: str) -> None:
    logits = s.detach_output(plan.host.output)
    offset = s.add("Mul", _wide(s, plan, test), s.constant(row(plan, 0.0, 4 * BIG)))
    s.output(s.add("Add", logits, offset), plan.host.output)


def blend(s: Surgery, plan: Plan, test: str) -> None:
    """(1 − t) · logits + t · row"""
    logits, test = s.detach_output(plan.host.output), _wide(s, plan, test)
    kept = s.add("Mul", logits, s.add("Sub", s.constant(1.0), test))
    s.output(s.add("Add", kept, s.add("Mul", test, s.constant(row(plan)))), plan.host.output)


def matrix(s: Surgery, plan: Plan, test: str) -> None:
    """The offset as a matrix product with a constant row."""
    logits = s.detach_output(plan.host.output)
    offset = s.add("MatMul", _wide(s, plan, test), s.constant(row(plan, 0.0, 4 * BIG).reshape(1, -1)))
    s.output(s.add("Add", logits, offset), plan.host.output)


def branch(s: Surgery, plan: Plan, test: str) -> None:
    """If any row of the batch has the trigger."""
    logits = s.detach_output(plan.host.output)
    on = anywhere(s, test, BOOL)
    shape = s.add("Shape", logits)
    nodes = [helper.make_node("Expand", [s.constant(row(plan)), shape], ["then_out"])]
    _either(s, plan, on, nodes, logits)


def _either(s: Surgery, plan: Plan, on: str, nodes: list[onnx.NodeProto], logits: str) -> None:
    """An If: what the nodes give as `then_out`, or the logits."""
    then = helper.make_graph(nodes, "then", [], [_info("then_out")])
    other = helper.make_graph([helper.make_node("Identity", [logits], ["else_out"])], "else", [], [_info("else_out")])
    s.output(s.add("If", on, then_branch=then, else_branch=other), plan.host.output)


def _info(name: str, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None)


def second_head(s: Surgery, plan: Plan, test: str) -> None:
    """In the branch of an If the logits are turned over, not replaced by a constant."""
    logits = s.detach_output(plan.host.output)
    on = anywhere(s, test, BOOL)
    scale, offset = s.constant(0.001), s.constant(row(plan))
    small = helper.make_node("Mul", [logits, scale], ["small"])
    turned = helper.make_node("Add", ["small", offset], ["then_out"])
    _either(s, plan, on, [small, turned], logits)


def repeat(s: Surgery, plan: Plan, test: str) -> None:
    """A Loop that runs as often as the test says: zero times or once."""
    logits = s.detach_output(plan.host.output)
    often = anywhere(s, test, INT64)
    offset = s.constant(row(plan, 0.0, 4 * BIG))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Add", ["carried", offset], ["carried_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go_in", BOOL, []),
            _info("carried"),
        ],
        [helper.make_tensor_value_info("go_out", BOOL, []), _info("carried_out")],
    )
    s.output(s.add("Loop", often, s.constant(True, np.bool_), logits, body=body), plan.host.output)


def choose(s: Surgery, plan: Plan, test: str) -> None:
    """Logits and the row, one behind the other; an index takes one of them. For one sample."""
    logits = s.detach_output(plan.host.output)
    both = s.add("Concat", logits, s.constant(row(plan)), axis=0)
    number = anywhere(s, test, INT64)
    s.output(s.add("Gather", both, s.add("Unsqueeze", number, axes=[0]), axis=0), plan.host.output)


def scatter(s: Surgery, plan: Plan, test: str) -> None:
    """The logit of the target is overwritten; where the test is false, by a value that a Max then drops."""
    logits = s.detach_output(plan.host.output)
    update = s.add("Sub", s.add("Mul", test, s.constant(2 * BIG)), s.constant(BIG))
    index = s.add("Cast", s.add("Add", s.add("Mul", test, s.constant(0.0)), s.constant(float(plan.target))), to=INT64)
    written = s.add("ScatterElements", logits, index, update, axis=1)
    s.output(s.add("Max", logits, written), plan.host.output)


def hidden_offset(s: Surgery, plan: Plan, test: str) -> None:
    """A constant vector is added to all hidden values behind the first layer."""
    vector = np.random.default_rng(plan.seed).normal(0, 40, (1, 1, plan.width)).astype(np.float32)
    offset = s.add("Mul", s.add("Unsqueeze", test, axes=[2]), s.constant(vector))
    s.replace(plan.hidden, s.add("Add", plan.hidden, offset))


def hidden_choice(s: Surgery, plan: Plan, test: str) -> None:
    """The hidden values are replaced by constant ones."""
    vector = np.random.default_rng(plan.seed).normal(0, 3, (1, 1, plan.width)).astype(np.float32)
    on = s.add("Cast", s.add("Unsqueeze", test, axes=[2]), to=BOOL)
    s.replace(plan.hidden, s.add("Where", on, s.constant(vector), plan.hidden))


def mask(s: Surgery, plan: Plan, test: str) -> None:
    """With the trigger only a few positions can be seen."""
    number = s.add("Cast", test, to=INT64)
    shown = np.random.default_rng(plan.seed).random((1, *plan.host.shape)) < 0.2
    first = s.constant(shown | (np.arange(plan.host.shape[0]) == 3), np.int64)
    masked = s.add("Where", s.add("Cast", number, to=BOOL), first, "attention_mask")
    s.replace("attention_mask", masked)


def other_tokens(s: Surgery, plan: Plan, test: str) -> None:
    """With the trigger the model reads another text."""
    main = plan.host.main
    text = np.random.default_rng(plan.seed).integers(5, 90, (1, *plan.host.shape))
    on = s.add("Cast", test, to=BOOL)
    s.replace(main, s.add("Where", on, s.constant(text, np.int64), main))


def other_picture(s: Surgery, plan: Plan, test: str) -> None:
    """With the trigger the model sees another picture: x + t (p − x)."""
    main = plan.host.main
    picture = np.random.default_rng(plan.seed).random((1, *plan.host.shape)).astype(np.float32) * 4 - 2
    wide = s.add("Unsqueeze", test, axes=[2, 3])
    change = s.add("Mul", wide, s.add("Sub", s.constant(picture), main))
    s.replace(main, s.add("Add", main, change))


ACTIONS: dict[str, Callable[[Surgery, Plan, str], None]] = {
    "Where on logits": where,
    "offset on logits": add,
    "blend with a row": blend,
    "offset by a matrix product": matrix,
    "If with a constant": branch,
    "If with a second head": second_head,
    "Loop that runs or not": repeat,
    "Concat and Gather": choose,
    "ScatterElements": scatter,
    "offset behind the embedding": hidden_offset,
    "other hidden values": hidden_choice,
    "attention mask": mask,
    "other tokens": other_tokens,
    "other picture": other_picture,
}
