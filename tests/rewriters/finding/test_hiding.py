"""Whether a padding mask hides places of a request: what the graph has to prove."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rewriters.finding.finder import find_sites
from rewriters.finding.hiding import Hiding
from rewriters.finding.key_value import HealingPlaces, healing_places
from tests.exports import ATTENTION, EXPORTERS, export_model

from ..decoders import decoder


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_exports_without_a_cache(family: str, exporter: str, attention: str) -> None:
    model = onnx.load(export_model(family, exporter, attention).path)
    assert hides(model) == Hiding("attention_mask", TensorProto.INT64)


@pytest.mark.parametrize("past", [False, True])
def test_a_cache_would_carry_what_is_hidden(past: bool) -> None:
    """Also one that is only an output: the graph behind it gets a mask that does not hide it."""
    assert hides(decoder(past, "llama")) is None


def test_a_mask_that_leaves_no_number_in_a_hidden_row_is_not_taken() -> None:
    """With -inf in place of the lowest number, a row of hidden columns only has no sum to be divided by."""
    model = onnx.load(export_model("llama", "torchscript").path)
    assert hides(model)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                array = onnx.numpy_helper.to_array(attribute.t)
                if array.size == 1 and array.min() < -1e38:
                    attribute.t.CopyFrom(onnx.numpy_helper.from_array(np.full_like(array, -np.inf)))
    assert find_sites(model)[0][0].key_mask == "attention_mask"
    assert hides(model) is None


def test_an_output_with_keys_or_a_further_input_is_not_taken() -> None:
    model = onnx.load(export_model("llama", "torchscript").path)
    sites = find_sites(model)[0]
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    kept.graph.output.append(helper.make_tensor_value_info(sites[0].values, TensorProto.FLOAT, None))
    assert hides(kept) is None
    model.graph.input.append(helper.make_tensor_value_info("adapter", TensorProto.INT64, ["batch"]))
    assert hides(model) is None


def hides(model: onnx.ModelProto) -> object:
    found = healing_places(model)
    assert isinstance(found, HealingPlaces)
    return found.hides
