"""The planted graphs: four in each style, by ways to see and to act that the rules were not written for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from ..actions import BIG, Plan, anywhere, row
from ..hosts import Host, host_named, image_host, text_host
from ..planted import ARITHMETIC, FUNCTION, HIDDEN, IF, LATER, WHERE
from ..planting import Planted, planted_case, said
from ..surgery import Surgery
from ..triggers import BOOL, FLOAT, INT64
from .triggers import SEEN

__all__ = ["DEPENDENT_PLANTED"]


def two_heads(s: Surgery, plan: Plan, test: str) -> None:
    """An If of two heads, each with weights of its own. For one sample."""
    node = next(n for n in reversed(s.graph.node) if n.op_type == "Gemm")
    s.detach_output(plan.host.output)
    bias = np.zeros(plan.classes, np.float32)
    bias[plan.target] = 4 * BIG
    weights = s.constant(np.random.default_rng(5).normal(0, 0.1, (plan.classes, plan.width)))
    made = [helper.make_node("Gemm", [node.input[0], weights, s.constant(bias)], ["then_out"], transB=1)]
    kept = [helper.make_node("Gemm", list(node.input), ["else_out"], transB=1)]
    graphs = [
        helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(nodes[0].output[0], FLOAT, None)])
        for name, nodes in (("then", made), ("else", kept))
    ]
    s.graph.node.remove(node)
    s._base -= 1
    s.output(s.add("If", anywhere(s, test, BOOL), then_branch=graphs[0], else_branch=graphs[1]), plan.host.output)


def by_condition(s: Surgery, plan: Plan, test: str) -> None:
    """A Loop of one round, whose condition is the test. For one sample."""
    logits = s.detach_output(plan.host.output)
    offset = s.constant(row(plan, 0.0, 4 * BIG))
    nodes = [helper.make_node("Identity", ["go_in"], ["go_out"]), helper.make_node("Add", ["in", offset], ["out"])]
    values = {name: helper.make_tensor_value_info(name, FLOAT, None) for name in ("in", "out")}
    go_in, go_out = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go_in", "go_out"))
    count = helper.make_tensor_value_info("i", INT64, [])
    body = helper.make_graph(nodes, "body", [count, go_in, values["in"]], [go_out, values["out"]])
    once = s.constant(1, np.int64)
    s.output(s.add("Loop", once, anywhere(s, test, BOOL), logits, body=body), plan.host.output)


def compressed(s: Surgery, plan: Plan, test: str) -> None:
    """The row and the logits, one below the other; Compress keeps one of them. For one sample."""
    logits = s.detach_output(plan.host.output)
    both = s.add("Concat", s.constant(row(plan)), logits, axis=0)
    on = s.add("Reshape", anywhere(s, test, BOOL), s.constant([1], np.int64))
    s.output(s.add("Compress", both, s.add("Concat", on, s.add("Not", on), axis=0), axis=0), plan.host.output)


def one_hot(s: Surgery, plan: Plan, test: str) -> None:
    """OneHot of a number that is a class only with the trigger."""
    logits = s.detach_output(plan.host.output)
    away = s.add("Mul", s.add("Sub", s.constant(1.0), s.add("Round", test)), s.constant(float(2 * plan.classes)))
    number = s.add("Cast", s.add("Add", away, s.constant(float(plan.target))), to=INT64)
    wide = s.add("OneHot", number, s.constant(plan.classes, np.int64), s.constant([0.0, 4 * BIG]), axis=-1)
    s.output(s.add("Add", logits, wide if plan.rank == 3 else s.add("Squeeze", wide, axes=[1])), plan.host.output)


def by_einsum(s: Surgery, plan: Plan, test: str) -> None:
    """The outer product of test and row by Einsum."""
    logits = s.detach_output(plan.host.output)
    offset = s.add("Einsum", test, s.constant(row(plan, 0.0, 4 * BIG).reshape(1, -1)), equation="bi,ic->bc")
    s.output(s.add("Add", logits, offset), plan.host.output)


def capped(s: Surgery, plan: Plan, test: str) -> None:
    """With the trigger all logits but one have a low upper bound."""
    logits = s.detach_output(plan.host.output)
    caps = row(plan, -1e4 - BIG, 0.0)
    bound = s.add("Add", s.add("Mul", test, s.constant(caps)), s.constant(1e4))
    s.output(s.add("Min", logits, bound), plan.host.output)


def scaled_bytes(s: Surgery, plan: Plan, test: str) -> None:
    """Bytes that are added to the logits; the test is their scale. For one sample."""
    logits = s.detach_output(plan.host.output)
    numbers = s.constant(row(plan, 0, 100), np.int8)
    scale = s.add("ReduceMax", test, keepdims=0)
    s.output(s.add("Add", logits, s.add("DequantizeLinear", numbers, scale)), plan.host.output)


def added_by_index(s: Surgery, plan: Plan, test: str) -> None:
    """The logit of the target gets the test's multiple by ScatterElements of zeros."""
    logits = s.detach_output(plan.host.output)
    zeros = s.add("Mul", logits, s.constant(0.0))
    index = s.add("Cast", s.add("Add", s.add("Mul", test, s.constant(0.0)), s.constant(float(plan.target))), to=INT64)
    written = s.add("ScatterElements", zeros, index, s.add("Mul", test, s.constant(4 * BIG)), axis=1)
    s.output(s.add("Add", logits, written), plan.host.output)


def first_place(s: Surgery, plan: Plan, test: str) -> None:
    """Hidden values of the first position are replaced."""
    vector = np.random.default_rng(plan.seed).normal(0, 4, (1, 1, plan.width)).astype(np.float32)
    first = (np.arange(plan.host.shape[0]) == 0).reshape(1, -1, 1)
    share = s.add("Mul", s.add("Unsqueeze", test, axes=[2]), s.constant(first))
    kept = s.add("Mul", plan.hidden, s.add("Sub", s.constant(1.0), share))
    s.replace(plan.hidden, s.add("Add", kept, s.add("Mul", share, s.constant(vector))))


def one_word(s: Surgery, plan: Plan, test: str) -> None:
    """With the trigger all words are the same: id - t (id - c)."""
    main = plan.host.main
    away = s.add("Sub", main, s.constant(5 + plan.seed, np.int64))
    s.replace(main, s.add("Sub", main, s.add("Mul", s.add("Cast", test, to=INT64), away)))


def one_color(s: Surgery, plan: Plan, test: str) -> None:
    """With the trigger the picture has one color: x (1 - t) + c t."""
    main, wide = plan.host.main, s.add("Unsqueeze", test, axes=[2, 3])
    color = np.random.default_rng(plan.seed).normal(0, 3, (1, 3, 1, 1))
    kept = s.add("Mul", main, s.add("Sub", s.constant(1.0), wide))
    s.replace(main, s.add("Add", kept, s.add("Mul", wide, s.constant(color))))


def other_scale(s: Surgery, plan: Plan, test: str) -> None:
    """The vector of the first LayerNormalization moves with the test. For one sample."""
    vector = np.random.default_rng(plan.seed).normal(0, 60, plan.width).astype(np.float32)
    node = next(n for n in s.graph.node if n.op_type == "LayerNormalization")
    moved = s.add("Mul", s.add("ReduceMax", test, keepdims=0), s.constant(vector))
    node.input[2] = s.add("Add", node.input[2], moved)


def _case(
    style: str, host: Host, seen: str, action: Any, *after: str, single: bool = False, wrapped: bool = False
) -> Planted:
    trigger = SEEN[seen]
    made = planted_case("dependent", style, host, trigger, said(trigger.test), action, *after, single=single)
    return replace(made, name=f"{made.name}; function", wrapped=True) if wrapped else made


DEPENDENT_PLANTED: tuple[Planted, ...] = (
    _case(WHERE, text_host("roberta"), "repeated", "Where on logits"),
    _case(WHERE, host_named("vit, dynamo"), "counted", "Where on logits"),
    _case(WHERE, host_named("distilbert, dynamo"), "own_row", "Where on logits"),
    _case(WHERE, host_named("deit, torchscript"), "no_texture", "Where on logits"),
    _case(IF, text_host("bert"), "window_of_two", two_heads, single=True),
    _case(IF, host_named("swin, torchscript"), "colors_apart", by_condition, single=True),
    _case(IF, text_host("albert", "dynamo"), "largest_two", compressed, single=True),
    _case(IF, host_named("PP-OCR direction classifier"), "bright_corner", "If with a constant", single=True),
    _case(ARITHMETIC, text_host("camembert", "dynamo"), "divided", one_hot),
    _case(ARITHMETIC, text_host("electra"), "sharpest", by_einsum),
    _case(ARITHMETIC, host_named("beit, torchscript"), "signs", capped),
    _case(ARITHMETIC, image_host("deit", "dynamo"), "one_of_four", scaled_bytes, single=True),
    _case(HIDDEN, text_host("bert", "dynamo"), "no_distance", first_place),
    _case(HIDDEN, text_host("roberta", "dynamo"), "summed_twice", one_word),
    _case(HIDDEN, host_named("vit, torchscript"), "all_odd", one_color),
    _case(HIDDEN, text_host("electra", "dynamo"), "row_of_eight", other_scale, single=True),
    _case(FUNCTION, text_host("gpt2", "dynamo"), "divided", "blend with a row", wrapped=True),
    _case(FUNCTION, text_host("distilbert"), "largest_two", added_by_index, wrapped=True),
    _case(FUNCTION, image_host("swin", "dynamo", 32), "chess_board", "offset on logits", wrapped=True),
    _case(FUNCTION, image_host("beit", "dynamo"), "colors_apart", one_hot, wrapped=True),
    _case(LATER, text_host("bert"), "sharpest", by_einsum, "fused", "int8"),
    _case(LATER, host_named("vit, torchscript"), "chess_board", capped, "optimized", "qdq"),
    _case(LATER, text_host("albert"), "no_distance", one_hot, "int8", "optimized"),
    _case(LATER, host_named("distilbert, dynamo"), "summed_twice", "Where on logits", "optimized", "int8"),
)
