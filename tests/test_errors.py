"""Error codes, the classes above them, and where they may be caught."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import atpatch_onnx
from atpatch_onnx.errors import CATALOG, AtpatchError, Fault

from . import toy_backdoor as toys

ROOT = Path(__file__).parent.parent
CLASSES = {"ModelError", "PlanError", "DataError", "ServeError"}
BORDERS = {
    "atpatch_onnx/cli/fit.py",  # the hotfix is written by then: a note says why it has no price
    "atpatch_onnx/serve/server.py",  # logs it, or ends the server with it
    "atpatch_onnx/serve/calibration.py",  # logs it; the server goes on with the original
    "atpatch_onnx/serve/fit_process.py",  # hands its words to the server
    "atpatch_onnx/auditing/case.py",  # a patch that cannot be taken out stays in, and a rule says so
    "atpatch_onnx/auditing/behavior/__init__.py",  # a check that a model does not admit was not tried
    "atpatch_onnx/auditing/graph_logic/material.py",  # a patch that cannot be taken out is none
    "atpatch_onnx/auditing/provenance/stamp.py",  # a patch that cannot be made again is none
    "atpatch_onnx/auditing/cutting/cut.py",  # a graph that does not run is no cut
}
"""Where a refusal becomes words for people, so that any is caught."""


@pytest.mark.parametrize("fault", CATALOG.values(), ids=CATALOG.keys())
def test_a_code_belongs_to_one_public_class(fault: Fault) -> None:
    refusal = fault("this happened")
    assert [name for name in CLASSES if isinstance(refusal, getattr(atpatch_onnx, name))] == [fault.kind.__name__]
    assert isinstance(refusal, AtpatchError) and refusal.code == fault.code


def test_one_sort_of_trouble_can_be_caught() -> None:
    toy = toys.toy(padded=True)
    with pytest.raises(atpatch_onnx.DataError, match="ATP056"):
        atpatch_onnx.fit(toy.model, {"input_ids": np.zeros((2, 3), np.float64)})
    with pytest.raises(atpatch_onnx.ModelError, match="ATP001"):
        atpatch_onnx.inspect_model(__file__)
    with pytest.raises(atpatch_onnx.PlanError, match="ATP060"):
        atpatch_onnx.fit(toy.model, toy.debug, detector="oracle")  # type: ignore[call-overload]


def handlers(tree: ast.AST) -> list[ast.ExceptHandler]:
    """Those that take any refusal and do not raise one."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and node.type is not None
        and any(isinstance(name, ast.Name) and name.id == "AtpatchError" for name in ast.walk(node.type))
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    ]


def test_no_code_is_control_flow() -> None:
    """What may be refused is asked first, by a function that returns the reason."""
    caught, compared = set(), []
    for path in sorted([*ROOT.glob("rewriters/**/*.py"), *ROOT.glob("atpatch_onnx/**/*.py")]):
        tree, name = ast.parse(path.read_text("utf-8")), path.relative_to(ROOT).as_posix()
        caught |= {name for _ in handlers(tree)}
        compared += [
            f"{name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare)
            and isinstance(node.left, ast.Attribute)
            and ast.unparse(node.left) == "error.code"
        ]
    assert caught == BORDERS and compared == []
