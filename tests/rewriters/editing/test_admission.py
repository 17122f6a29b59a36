"""What a graph does not admit is a value that can be asked for, and what `patch` raises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

from rewriters.editing.admission import not_admitted
from rewriters.editing.patcher import patch
from rewriters.errors import ModelError
from rewriters.plan import PatchPlan, SitePlan, Static

from ..graphs import attention_block

Edit = Callable[[onnx.ModelProto], None]


def leave(model: onnx.ModelProto) -> None:
    """The graph as it is: inputs and outputs with a named batch axis."""


def fix_the_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4


def reverse(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def add_a_cache(model: onnx.ModelProto) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("past", onnx.TensorProto.FLOAT, [2, "B", "K"]))


def add_one_score(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["out", "axes"], ["score"], keepdims=0))
    model.graph.node.append(onnx.helper.make_node("Unsqueeze", ["score", "second"], ["scores"]))
    for name, value in (("axes", [1, 2, 3]), ("second", [1])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    model.graph.output.append(onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["B", 1]))


@pytest.mark.parametrize(
    ("edit", "options", "words"),
    [
        (fix_the_batch, {}, "two passes need an output with a named first axis"),
        (reverse, {}, "the nodes are not in execution order"),
        (add_a_cache, {}, "past carries samples on another axis"),
        (leave, {"mend": "excise"}, "excision needs one padding mask"),
        (leave, {"accept": "flip"}, "accepting flips only needs an output"),
        (add_one_score, {"accept": "flip"}, "an output (samples, classes) of two classes or more"),
    ],
    ids=["fixed batch", "order", "cache", "excision", "flips", "flips of one score"],
)
def test_the_reason_can_be_asked_for_and_is_what_patching_raises(edit: Edit, options: dict, words: str) -> None:
    block = attention_block()
    edit(block.model)
    one = PatchPlan({block.site.id: SitePlan(Static())}, groups=((block.site.id,),))
    plan = replace(one, passes="two", **options)
    reason = not_admitted(block.model, plan, [block.site])
    assert reason is not None and reason.code == "ATP023" and words in reason.what
    with pytest.raises(ModelError) as caught:
        patch(block.model, plan, [block.site])
    assert (caught.value.code, caught.value.what, caught.value.fix) == (reason.code, reason.what, reason.fix)
    assert not_admitted(block.model, one, [block.site]) is None


def test_a_graph_that_admits_two_passes_gives_no_reason() -> None:
    block = attention_block()
    plan = PatchPlan({block.site.id: SitePlan(Static())}, passes="two", groups=((block.site.id,),), telemetry=True)
    assert not_admitted(block.model, plan, [block.site]) is None
    patch(block.model, plan, [block.site])
