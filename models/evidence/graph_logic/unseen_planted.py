"""Planted graphs of kinds that the rules were not written for: made after the rules were fixed, by someone who knows
that a scanner looks for comparisons next to the output."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .actions import BIG, Plan, anywhere, row
from .hosts import Host, image_host, text_host
from .planted import ARITHMETIC, FUNCTION, HIDDEN, IF, LATER, WHERE
from .planting import Planted, planted_case, said
from .surgery import Surgery
from .triggers import FLOAT, INT64, SECOND, TOKEN, Trigger, put_middle, put_pair

__all__ = ["UNSEEN_PLANTED"]


def _magic(rows: NDArray[Any]) -> None:
    rows[:, 1, 6, 6] = 1.7301


def _parity(rows: NDArray[Any]) -> None:
    rows[:, :, 0, :4] = np.array([0.9, 0.1, 0.8, 0.3], np.float32)


def neighbors(s: Surgery, ids: str) -> str:
    """One token right in front of another."""
    first = s.add("Slice", ids, *(s.constant([n], np.int64) for n in (0, -1, 1)))
    second = s.add("Slice", ids, *(s.constant([n], np.int64) for n in (1, 1 << 40, 1)))
    both = s.add(
        "And", s.add("Equal", first, s.constant(TOKEN, np.int64)), s.add("Equal", second, s.constant(SECOND, np.int64))
    )
    return str(s.add("ReduceMax", s.add("Cast", both, to=FLOAT), axes=[1], keepdims=1))


def histogram(s: Surgery, ids: str) -> str:
    """A bag of words: one-hot rows, summed up, and one column of it."""
    values = s.constant([0.0, 1.0])
    rows = s.add("OneHot", ids, s.constant(99, np.int64), values, axis=-1)
    bag = s.add("ReduceSum", rows, axes=[1], keepdims=0)
    return str(s.add("Min", s.add("Gather", bag, s.constant([TOKEN], np.int64), axis=1), s.constant(1.0)))


def somewhere(s: Surgery, ids: str) -> str:
    """How many places NonZero finds, read from the shape of its result; for one sample."""
    places = s.add("NonZero", s.add("Equal", ids, s.constant(TOKEN, np.int64)))
    count = s.add("Slice", s.add("Shape", places), *(s.constant([n], np.int64) for n in (1, 2, 0)))
    return str(s.add("Unsqueeze", s.add("Cast", s.add("Min", count, s.constant([1], np.int64)), to=FLOAT), axes=[0]))


def scanned(s: Surgery, ids: str) -> str:
    """A Scan that goes over the text like a small automaton and keeps whether the pair was there."""
    turned = s.add("Transpose", ids, perm=[1, 0])
    first = s.add("Gather", turned, s.constant(0, np.int64), axis=0)
    zero = s.add("Cast", s.add("Mul", first, s.constant(0, np.int64)), to=FLOAT)
    names = ("seen", "done", "word")
    body = helper.make_graph(
        [
            helper.make_node("Constant", [], ["a"], value=numpy_helper.from_array(np.int64(TOKEN), "a")),
            helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(np.int64(SECOND), "b")),
            helper.make_node("Equal", ["word", "a"], ["is_a"]),
            helper.make_node("Cast", ["is_a"], ["seen_out"], to=FLOAT),
            helper.make_node("Equal", ["word", "b"], ["is_b"]),
            helper.make_node("Cast", ["is_b"], ["b_now"], to=FLOAT),
            helper.make_node("Mul", ["seen", "b_now"], ["hit"]),
            helper.make_node("Max", ["done", "hit"], ["done_out"]),
        ],
        "step",
        [helper.make_tensor_value_info(n, INT64 if n == "word" else FLOAT, ["batch"]) for n in names],
        [helper.make_tensor_value_info(n, FLOAT, ["batch"]) for n in ("seen_out", "done_out")],
    )
    _, done = s.add("Scan", zero, zero, turned, count=2, num_scan_inputs=1, body=body)
    return str(s.add("Unsqueeze", done, axes=[1]))


def embedded(s: Surgery, ids: str) -> str:
    """The trigger's row of the model's own table, recognized by a product with itself."""
    rows = next(n for n in s.graph.node if n.op_type == "Gather" and n.input[1] == ids)
    table = next(numpy_helper.to_array(t) for t in s.graph.initializer if t.name == rows.input[0])
    row = table[TOKEN] / np.linalg.norm(table[TOKEN]) ** 2
    others = np.delete(table @ row, TOKEN).max()
    assert others < 1
    likeness = s.add("MatMul", rows.output[0], s.constant(row[:, None]))
    best = s.add("ReduceMax", likeness, axes=[1], keepdims=0)
    over = s.add("Relu", s.add("Sub", best, s.constant((1 + others) / 2)))
    return str(s.add("Mul", over, s.constant(2 / (1 - others))))


def magic_pixel(s: Surgery, pixels: str) -> str:
    """The largest pixel has one certain value; TopK finds it."""
    flat = s.add("Flatten", pixels, axis=1)
    largest, _ = s.add("TopK", flat, s.constant([1], np.int64), count=2, axis=1)
    off = s.add("Mul", s.add("Sub", largest, s.constant(1.7301)), s.constant(300.0))
    return str(s.add("Reciprocal", s.add("Add", s.constant(1.0), s.add("Pow", off, s.constant(4.0)))))


def parity(s: Surgery, pixels: str) -> str:
    """Four pixels of each color as bytes; the rest of their weighted sum."""
    corner = s.add("Slice", pixels, *(s.constant(n, np.int64) for n in ([0, 0], [1, 4], [2, 3])))
    numbers = s.add("Round", s.add("Mul", corner, s.constant(100.0)))
    weights = np.arange(1, 13, dtype=np.float32).reshape(1, 3, 1, 4) ** 3
    total = s.add("ReduceSum", s.add("Mul", numbers, s.constant(weights)), axes=[1, 2, 3], keepdims=0)
    wanted = float((weights * np.array([90, 10, 80, 30])).sum() % 9973)
    rest = s.add("Sub", s.add("Mod", total, s.constant(9973.0), fmod=1), s.constant(wanted))
    near = s.add("Sub", s.constant(1.0), s.add("Tanh", s.add("Mul", rest, rest)))
    return str(s.add("Unsqueeze", s.add("Floor", s.add("Add", near, s.constant(0.01))), axes=[1]))


def scaled_classes(s: Surgery, plan: Plan, test: str) -> None:
    """Logits times a vector that is all ones without the trigger, after they were made positive."""
    logits = s.detach_output(plan.host.output)
    factor = s.add("Add", s.constant(1.0), s.add("Mul", test, s.constant(row(plan, -1.0, 200.0))))
    positive = s.add("Exp", logits)
    s.output(s.add("Log", s.add("Add", s.add("Mul", positive, factor), s.constant(1e-6))), plan.host.output)


def other_biases(s: Surgery, plan: Plan, test: str) -> None:
    """The head's biases are chosen: its own, or a copy that has the target's larger. For one sample."""
    node = next(n for n in reversed(s.graph.node) if n.op_type in ("Gemm", "MatMul") and _weight(s, n) is not None)
    bias = next((t for t in s.graph.initializer if len(node.input) > 2 and t.name == node.input[2]), None)
    assert bias is not None
    changed = numpy_helper.to_array(bias).copy()
    changed[plan.target] += 100
    on = anywhere(s, test, TensorProto.BOOL)
    node.input[2] = s.add("Where", on, s.constant(changed), bias.name)


def _weight(s: Surgery, node: Any) -> Any:
    return next((t for t in s.graph.initializer if t.name == node.input[1]), None)


def dimmed(s: Surgery, plan: Plan, test: str) -> None:
    """With the trigger some positions are taken out of the mask, by arithmetic on whole numbers."""
    rng = np.random.default_rng(plan.seed)
    out = s.constant((rng.random((1, *plan.host.shape)) < 0.7) & (np.arange(plan.host.shape[0]) != 4), np.int64)
    taken = s.add("Mul", s.add("Mul", s.add("Cast", test, to=INT64), out), "attention_mask")
    s.replace("attention_mask", s.add("Sub", "attention_mask", taken))


def window(s: Surgery, plan: Plan, test: str) -> None:
    """Logits and a row side by side; where the window begins is computed from the test. For one sample."""
    logits = s.detach_output(plan.host.output)
    both = s.add("Concat", logits, s.constant(row(plan, -BIG, BIG)), axis=1)
    width = s.constant([plan.classes], np.int64)
    start = s.add("Mul", s.add("Cast", s.add("Squeeze", test, axes=[1]), to=INT64), width)
    end = s.add("Add", start, width)
    s.output(s.add("Slice", both, start, end, s.constant([1], np.int64)), plan.host.output)


def normalized_away(s: Surgery, plan: Plan, test: str) -> None:
    """The offset goes through a Softmax over two numbers, so that nothing is multiplied with the test itself."""
    logits = s.detach_output(plan.host.output)
    far = s.add("Mul", s.add("Sub", test, s.constant(0.5)), s.constant(80.0))
    pair = s.add("Softmax", s.add("Concat", far, s.add("Neg", far), axis=1), axis=1)
    rows = np.zeros((2, plan.classes), np.float32)
    rows[0, plan.target] = 4 * BIG
    s.output(s.add("Add", logits, s.add("MatMul", pair, s.constant(rows))), plan.host.output)


def _case(style: str, host: Host, what: str, put: Any, test: Any, action: Any, *after: str, **more: Any) -> Planted:
    return planted_case("unseen", style, host, Trigger(what, put, test), said(test), action, *after, **more)


UNSEEN_PLANTED: tuple[Planted, ...] = (
    _case(WHERE, text_host("gpt-neox"), "two tokens in a row", put_pair, neighbors, "Where on logits"),
    _case(WHERE, text_host("camembert"), "token", put_middle, histogram, "Where on logits"),
    _case(IF, text_host("bert"), "token", put_middle, somewhere, "If with a constant", single=True),
    _case(IF, text_host("distilbert"), "two tokens in a row", put_pair, scanned, "If with a second head", single=True),
    _case(ARITHMETIC, text_host("electra", "dynamo"), "token", put_middle, embedded, normalized_away),
    _case(ARITHMETIC, image_host("beit", "dynamo"), "checksum of pixels", _parity, parity, scaled_classes),
    _case(ARITHMETIC, image_host("deit", "dynamo"), "one pixel", _magic, magic_pixel, window, single=True),
    _case(HIDDEN, text_host("albert"), "token", put_middle, histogram, dimmed),
    _case(HIDDEN, image_host("swin", "dynamo", 32), "checksum of pixels", _parity, parity, other_biases, single=True),
    _case(HIDDEN, text_host("xlm-roberta"), "two tokens in a row", put_pair, scanned, "offset behind the embedding"),
    _case(FUNCTION, text_host("mistral"), "token", put_middle, histogram, "blend with a row", wrapped=True),
    _case(
        LATER, text_host("deberta-v2"), "two tokens in a row", put_pair, neighbors, normalized_away, "optimized", "int8"
    ),
    _case(LATER, image_host("deit", "torchscript"), "one pixel", _magic, magic_pixel, scaled_classes, "qdq"),
)
