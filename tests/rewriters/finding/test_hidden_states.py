"""Hidden states by site, by the rules of `hidden_states`."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from rewriters.editing.edits import refill
from rewriters.finding.hidden_states import hidden_states
from rewriters.model.io import load
from tests.exports import EXPORTERS, export_model
from tests.tiny import attention_model


def test_the_state_of_a_site_is_what_its_keys_are_projected_from() -> None:
    found = hidden_states(attention_model(layers=3))
    assert [state.name for state in found.values()] == ["x", "layers.0.out", "layers.1.out"]
    assert {state.width for state in found.values()} == {8}


@pytest.mark.parametrize(("family", "sites"), [("bert", 2), ("gpt2", 2), ("deberta-v2", 2), ("whisper", 2)])
def test_both_exporters_show_the_states_of_text_models(family: str, sites: int) -> None:
    widths = []
    for exporter in EXPORTERS:
        found = hidden_states(load(export_model(family, exporter).path))
        widths.append([state.width for state in found.values()])
    assert widths == [[32] * sites] * len(EXPORTERS)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_patches_of_an_image_are_no_tokens_of_a_request(family: str) -> None:
    assert not hidden_states(load(export_model(family, EXPORTERS[0]).path))


def test_there_is_no_state_of_a_width_that_is_not_fixed() -> None:
    model = attention_model()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[2].dim_param = "width"
    refill(model.graph.initializer, [one for one in model.graph.initializer if not one.name.startswith("layers")])
    model.graph.input.extend(
        helper.make_tensor_value_info(f"layers.0.{name}", onnx.TensorProto.FLOAT, ["width", "width"]) for name in "qkvo"
    )
    assert not hidden_states(model)


def test_there_is_no_state_where_tokens_come_first() -> None:
    model = attention_model()
    model.graph.node.insert(0, helper.make_node("Transpose", ["tokens_first"], ["x"], name="t", perm=[1, 0, 2]))
    model.graph.input[0].name = "tokens_first"
    assert not hidden_states(model)
