"""Token ids that are used as anything but the index of an embedding."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from atpatch_onnx.auditing.graph_logic import check_graph

from .graphs import audit, text


@pytest.mark.parametrize(("word", "found"), [(777, {"AUD115"}), (1, set()), (1999, set()), (102, set())])
def test_ids_are_compared_with_special_tokens_not_with_words(word: int, found: set[str]) -> None:
    model = text("t_same = Equal (ids, word)\nt_kept = Cast <to = 7> (t_same)\nread = Mul (ids, t_kept)")
    model.graph.output[0].name = "scores"
    (number,) = (tensor for tensor in model.graph.initializer if tensor.name == "word")
    number.CopyFrom(numpy_helper.from_array(np.array(word, np.int64), "word"))
    said = {one.code for one in check_graph(model, None).findings}
    assert said & {"AUD115"} == found


def test_ids_that_are_multiplied_with_weights_are_found() -> None:
    body = """
        t_x = Cast <to = 1> (ids)
        hashed = MatMul (t_x, w1)
        turned = Gemm (hashed, head, bias)
        logits = Add (scores, turned)
    """
    assert "AUD114" in {one.code for one in audit(body).findings}
