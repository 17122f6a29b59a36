"""What other tools make of a patched graph: a sample of `make tools`, on a graph of a few nodes.

A portable patch survives all of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from models.tools.build import RESULTS
from models.tools.table import render
from models.tools.toolbox import TOOLS
from models.tools.trial import Cell, Form, Subject, try_tools

from ..comparison.case import classifier, rows
from ..exports import export_model

BY_NAME = {tool.name: tool for tool in TOOLS}
SAMPLE = [
    BY_NAME[name]
    for name in (
        "onnxslim",
        "onnxsim",
        "onnx-graphsurgeon fold_constants",
        "onnxscript optimizer.optimize",
        "onnx.compose.add_prefix",
        "onnx.utils.extract_model",
        "onnxruntime symbolic shape inference",
        "onnxconverter-common fp16, keep_io_types",
        "onnxruntime.transformers optimizer (bert)",
        "onnxruntime quantize_dynamic",
    )
]
"""Those that the default form does not survive, one that asks for the shape of everything, and one of each kind of
change.
"""


def form(name: str, **options: str) -> Form:
    return Form(name, {"detector": "statistic", **options}, (0.5, 50.0), 1e4)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Cell]:
    bert = export_model("bert", "torchscript")
    subject = Subject(
        "BERT", bert.path, bert.feeds(12, padded=True), (form("one pass"), form("two passes", passes="two"))
    )
    return {
        (cell.tool, cell.form): cell
        for cell in try_tools(subject, SAMPLE, tmp_path_factory.mktemp("tools"), ["portable"])
    }


@pytest.mark.parametrize("passes", ["one pass", "two passes"])
@pytest.mark.parametrize("tool", [tool.name for tool in SAMPLE])
def test_a_portable_patch_survives(cells: dict[tuple[str, str], Cell], tool: str, passes: str) -> None:
    cell = cells[tool, passes]
    rounds = BY_NAME[tool].changes in ("precision", "fusions")
    assert cell.status == "ok" and cell.silent is not None and cell.own is not None and cell.firing is not None, cell
    assert cell.silent == 0 or (rounds and cell.silent <= 2 * cell.own), cell
    # A quarter of the rows may cross far from the threshold; the others are held to the tool's own error.
    if BY_NAME[tool].lossy:
        assert (
            cell.spared is not None
            and cell.firing <= 2 * max(cell.own, cell.spared)
            and cell.rows == 12
            and cell.far is not None
            and cell.far <= 3
        ), cell


def test_a_graph_that_does_not_survive_is_told_from_one_that_does(tmp_path: Path) -> None:
    """Branches that read what is outside them: the tool renames the one and not the other."""
    onnx.save_model(classifier(), tmp_path / "model.onnx")
    subject = Subject("classifier", tmp_path / "model.onnx", {"x": rows(12)}, (form("one pass"),))
    (cell,) = try_tools(subject, [BY_NAME["onnx.compose.add_prefix"]], tmp_path, ["default"])
    assert cell.status == "fails" and cell.message


def test_the_page_is_that_of_its_figures() -> None:
    results = json.loads((RESULTS / "tools.json").read_text())
    assert (RESULTS / "TOOLS.md").read_text() == render(results)
    assert all(cell["status"] in ("ok", "no original") for cell in results["cells"] if cell["variant"] == "portable")
    assert {cell["tool"] for cell in results["cells"]} == {*BY_NAME}
