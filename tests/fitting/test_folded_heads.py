"""A hotfix for multi-query attention whose heads are folded into the query rows: fitted, patched, run."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from atpatch_onnx import fit, patch_model
from atpatch_onnx.inference.datasets import DataSet
from tests.rewriters.finding.projections import CASES

ROWS, LENGTH, WIDTH = 48, 6, 8


def classifier() -> onnx.ModelProto:
    """The folded case behind a mean over its rows."""
    model = CASES["heads-folded-into-rows"].model()
    model.graph.node.append(helper.make_node("ReduceMean", ["out"], ["logits"], axes=[1], keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["B", 4]))
    return model


@pytest.mark.parametrize("detector", ["profile", "statistic", "oneclass"])
def test_it_is_fitted_without_an_internal_error(detector: str) -> None:
    rng, model = np.random.default_rng(0), classifier()
    x = rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    x[::2, 2] += 4
    feeds = {"x": x, "attention_mask": np.ones((ROWS, LENGTH), np.int64)}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    columns, pair = np.zeros((ROWS, LENGTH), bool), np.full(ROWS, -1)
    columns[::2, 2], pair[::2] = True, np.arange(1, ROWS, 2)
    data = DataSet(feeds, labels=session.run(None, feeds)[0].argmax(1), columns=columns, pair=pair)
    hotfix = fit(model, data, detector=detector, force=True)
    patched = patch_model(model, hotfix=hotfix)
    after = ort.InferenceSession(patched.SerializeToString(), providers=["CPUExecutionProvider"])
    for length in (1, 3, LENGTH, 9):
        fed = {
            "x": rng.normal(size=(2, length, WIDTH)).astype(np.float32),
            "attention_mask": np.ones((2, length), np.int64),
        }
        assert np.isfinite(after.run(["logits"], fed)[0]).all()
