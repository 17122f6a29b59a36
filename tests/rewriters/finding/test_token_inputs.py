"""What the inputs of a text model mean."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from rewriters.finding.finder import find_sites
from rewriters.finding.token_inputs import TokenInputs, token_inputs

from ...exports import export_model
from ...tiny import attention_model
from ..encoders import encoder


def inputs_of(model: onnx.ModelProto) -> TokenInputs | None:
    return token_inputs(model, find_sites(model)[0])


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_bert_takes_tokens_types_and_a_mask(exporter):
    model = onnx.load(export_model("bert", exporter).path)
    found = inputs_of(model)
    assert found is not None and found.unknown == ()
    expected = {"input_ids": "tokens", "token_type_ids": "types", "attention_mask": "mask"}
    assert found.meanings == {value.name: expected[value.name] for value in model.graph.input}
    (positions,) = (tensor for tensor in model.graph.initializer if "position_embeddings.weight" in tensor.name)
    assert (found.tokens, found.longest) == ("input_ids", positions.dims[0])


def test_the_largest_table_is_that_of_the_tokens():
    found = inputs_of(encoder())
    assert found is not None
    assert (found.tokens, found.vocabulary, found.width, dict(found.meanings)) == ("ids", 20, 4, {"ids": "tokens"})


def test_a_cast_on_the_way_to_the_table_changes_nothing():
    model = encoder()
    model.graph.node[0].input[1] = "as_long"
    model.graph.node.insert(0, helper.make_node("Cast", ["ids"], ["as_long"], to=onnx.TensorProto.INT64))
    found = inputs_of(model)
    assert found is not None and found.vocabulary == 20


def test_what_is_neither_is_not_known():
    model = encoder()
    model.graph.node[-1].output[0] = "context"
    model.graph.node.append(helper.make_node("Mul", ["context", "weights"], ["out"]))
    model.graph.input.append(helper.make_tensor_value_info("weights", 1, ["b", "s", 1]))
    found = inputs_of(model)
    assert found is not None and found.unknown == ("weights",)


def test_a_model_of_floats_has_no_tokens():
    assert inputs_of(attention_model()) is None
