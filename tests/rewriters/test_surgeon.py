"""The onnx-graphsurgeon adapter, and graphsurgeon as an independent witness of what the patcher wired."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from rewriters.editing.patcher import patch
from rewriters.errors import AtpatchError
from rewriters.finding.finder import find_sites
from rewriters.model.io import load
from rewriters.plan import PatchPlan, SitePlan, Static
from rewriters.surgeon import extract, patch_graph
from tests.exports import EXPORTERS, FAMILIES, export_model

from .graphs import attention_block, feeds, run, session

CASES = [(family, exporter) for family in FAMILIES for exporter in EXPORTERS]


@pytest.mark.parametrize(("family", "exporter"), CASES, ids=[f"{f}-{e}" for f, e in CASES])
def test_graphsurgeon_sees_the_same_wiring(family: str, exporter: str) -> None:
    """Each product is made by a gate that reads P and V; nothing but the inserted nodes is new."""
    model = load(export_model(family, exporter).path)
    sites, _ = find_sites(model)
    plan = PatchPlan({site.id: SitePlan(Static((1,))) for site in sites})
    before, after = gs.import_onnx(model), gs.import_onnx(patch(model, plan, sites))
    tensors = after.tensors()
    for site in sites:
        gate = tensors[site.product].inputs[0]
        assert gate.op == "If"
        reads = {
            tensor.name
            for key in ("then_branch", "else_branch")
            for node in gate.attrs[key].nodes
            for tensor in node.inputs
        }
        assert {site.probabilities, site.values} <= reads
        (original,) = gate.attrs["else_branch"].nodes
        assert [tensor.name for tensor in original.inputs] == [
            tensor.name for tensor in before.tensors()[site.product].inputs[0].inputs
        ]
    ours = [node for node in after.nodes if node.name.startswith("atpatch/")]
    assert len(after.nodes) - len(ours) == len(before.nodes) - len(sites)


def test_patch_graph_patches_a_graphsurgeon_graph() -> None:
    block, data = attention_block(), feeds()
    plan = PatchPlan({block.site.id: SitePlan(Static((3,)))})
    patched = gs.export_onnx(patch_graph(gs.import_onnx(block.model), plan))
    expected = run(patch(block.model, plan, [block.site]), data)["out"]
    np.testing.assert_array_equal(run(patched, data)["out"], expected)


@pytest.mark.parametrize(("family", "exporter"), CASES, ids=[f"{f}-{e}" for f, e in CASES])
def test_an_extracted_site_runs_by_itself_and_is_still_that_site(family: str, exporter: str) -> None:
    export = export_model(family, exporter)
    model = load(export.path)
    sites, _ = find_sites(model)
    for site in sites:
        alone = extract(model, site.id, sites)
        onnx.checker.check_model(alone)
        assert alone.ByteSize() < model.ByteSize() / 3 and len(alone.graph.node) < 64
        (found,), _ = find_sites(alone)
        assert (found.form, found.query_axis, found.key_axis, found.operand) == (
            site.form,
            site.query_axis,
            site.key_axis,
            site.operand,
        )
        live = session(alone)
        inner = session(with_inputs_as_outputs(model, [value.name for value in live.get_inputs()] + [site.product]))
        names = [value.name for value in inner.get_outputs()]
        fed = {value.name for value in inner.get_inputs()}
        values = dict(zip(names, inner.run(names, {k: v for k, v in export.feeds(2).items() if k in fed}), strict=True))
        got = live.run(
            [site.product],
            {value.name: values.get(value.name, export.feeds(2).get(value.name)) for value in live.get_inputs()},
        )
        np.testing.assert_allclose(got[0], values[site.product], atol=1e-6, rtol=1e-5)


def with_inputs_as_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(onnx.shape_inference.infer_shapes(model))
    known = {value.name: value for value in copy.graph.value_info}
    taken = {value.name for value in (*copy.graph.output, *copy.graph.input)}
    for name in dict.fromkeys(names):
        if name not in taken:
            copy.graph.output.append(
                known.get(name) or onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )
    return copy


def test_extract_wants_a_site_that_exists() -> None:
    block = attention_block()
    with pytest.raises(AtpatchError) as caught:
        extract(block.model, "nowhere", [block.site])
    assert caught.value.code == "ATP058" and block.site.id in caught.value.what
