"""The Python API takes a path, an `onnx.ModelProto` or an `onnx_ir.Model`, says the same of each, and gives back what
it was given.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest

import atpatch_onnx
import rewriters
from atpatch_onnx import AtpatchError
from rewriters.model import io as model_io
from rewriters.model.external_data import external_locations
from rewriters.plan import PatchPlan, SitePlan, Static

from .cli.hotfixes import hotfix_for
from .exports import export_model
from .tiny import attention_model, save_external, snapshot
from .toy_backdoor import toy

X = np.random.default_rng(3).standard_normal((3, 6, 8)).astype(np.float32)
FIRING = {"detector": "static", "columns": (1, 3)}
SILENT = {"detector": "static", "columns": ()}
FORMS = ("path", "proto", "ir")


def as_form(path: Path, form: str):
    if form == "path":
        return path
    return onnx.load(path, load_external_data=False) if form == "proto" else onnx_ir.load(path)


def run(model, **feeds) -> list[np.ndarray]:
    """Outputs of a model in any form, in a session of the public API."""
    return atpatch_onnx.session(model, threads=1).run(None, {"x": X, **feeds})


def equal(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(params=["inline", "external"])
def stored(request, tmp_path) -> Path:
    """A model file, its weights inside or next to it."""
    path = tmp_path / "model.onnx"
    if request.param == "inline":
        onnx.save_model(attention_model(layers=2), path)
    else:
        save_external(attention_model(layers=2), path)
    return path


# The same answers


def test_every_function_says_the_same_of_every_form(stored):
    models = [as_form(stored, form) for form in FORMS]
    for ask in (
        lambda model: atpatch_onnx.inspect_model(model).sites,
        lambda model: atpatch_onnx.explain_site(model, atpatch_onnx.inspect_model(model).sites[1].id),
        lambda model: rewriters.find_sites(model),
        lambda model: rewriters.trace_sites(model),
        lambda model: rewriters.is_patched(model),
        lambda model: atpatch_onnx.sites_page(model).split("</p>", 1)[1],  # the first line has the path
    ):
        answers = [ask(model) for model in models]
        assert answers[0] == answers[1] == answers[2]
    for model in models:
        assert atpatch_onnx.diff_models(model, models[1]).by_site() == {}
        assert equal(run(stored), run(model if isinstance(model, (Path, onnx_ir.Model)) else stored))


@pytest.mark.parametrize("form", ["proto", "ir"])
def test_patch_and_unpatch_give_back_the_kind_they_were_given(stored, form, monkeypatch):
    monkeypatch.chdir(stored.parent)  # where the external data of a proto is looked for
    model = as_form(stored, form)
    patched = atpatch_onnx.patch_model(model, **FIRING)
    assert type(patched) is type(model)
    assert rewriters.is_patched(patched)
    restored = atpatch_onnx.unpatch_model(patched)
    assert type(restored) is type(model)
    assert onnx_ir.to_proto(restored) == onnx_ir.to_proto(model) if form == "ir" else restored == model
    by_file = atpatch_onnx.patch_model(stored, **FIRING).output
    assert equal(run(patched), run(by_file))
    assert not equal(run(patched), run(stored))
    assert equal(run(restored), run(stored))
    assert equal(run(atpatch_onnx.patch_model(model, **SILENT)), run(stored))


@pytest.mark.parametrize("form", FORMS)
def test_the_engine_gives_graphs_for_every_form(stored, form):
    model = as_form(stored, form)
    sites, _ = rewriters.find_sites(model)
    plan = PatchPlan({site.id: SitePlan(Static((2,))) for site in sites})
    patched = rewriters.patch(model, plan)
    expected = onnx_ir.Model if form == "ir" else onnx.ModelProto
    assert type(patched) is expected
    assert type(rewriters.unpatch(patched)) is expected
    as_proto = patched if isinstance(patched, onnx.ModelProto) else onnx_ir.to_proto(patched)
    assert (
        rewriters.patch(model, plan, sites) == patched
        if form != "ir"
        else len(as_proto.graph.node) > len(as_form(stored, "proto").graph.node)
    )


@pytest.mark.parametrize("form", FORMS)
def test_extract_gives_a_graph_of_the_same_kind(stored, form):
    model = as_form(stored, form)
    site = atpatch_onnx.inspect_model(model).sites[0].id
    part = atpatch_onnx.extract_site(model, site)
    assert type(part) is (onnx_ir.Model if form == "ir" else onnx.ModelProto)
    assert len(atpatch_onnx.inspect_model(part).sites) == 1


# Nothing is written, nothing given is changed


@pytest.mark.parametrize("form", ["proto", "ir"])
def test_graphs_are_neither_changed_nor_written(stored, form):
    model = as_form(stored, form)
    before, files = model_io.digest(rewriters.model.forms.read(model).proto), snapshot(stored.parent)
    patched = atpatch_onnx.patch_model(model, detector="statistic", telemetry=True)
    after_patching = model_io.digest(rewriters.model.forms.read(patched).proto)
    atpatch_onnx.unpatch_model(patched)
    assert model_io.digest(rewriters.model.forms.read(model).proto) == before
    assert model_io.digest(rewriters.model.forms.read(patched).proto) == after_patching
    assert snapshot(stored.parent) == files


@pytest.mark.parametrize("options", [{"output": "out.onnx"}, {"in_place": True}, {"link_data": True}])
@pytest.mark.parametrize("function", [atpatch_onnx.patch_model, atpatch_onnx.unpatch_model])
def test_options_of_files_are_refused_for_graphs(function, options):
    with pytest.raises(AtpatchError) as caught:
        function(attention_model(), **options)
    assert caught.value.code == "ATP060"


# onnx_ir


def test_external_references_survive_onnx_ir_unread(tmp_path, monkeypatch):
    save_external(attention_model(layers=2), tmp_path / "model.onnx")
    model = onnx_ir.load(tmp_path / "model.onnx")
    reads = []
    original_load = onnx_ir.ExternalTensor._load
    monkeypatch.setattr(
        onnx_ir.ExternalTensor, "_load", lambda tensor: (reads.append(tensor.name), original_load(tensor))[1]
    )
    patched = atpatch_onnx.patch_model(model, **FIRING)
    assert reads == []
    weights = [
        value.const_value
        for value in model.graph.initializers.values()
        if isinstance(value.const_value, onnx_ir.ExternalTensor)
    ]
    assert len(weights) == 8
    for weight in weights:
        assert patched.graph.initializers[weight.name].const_value is weight
        assert Path(weight.base_dir) == tmp_path
    onnx_ir.save(patched, tmp_path / "patched.onnx")
    saved = onnx.load(tmp_path / "patched.onnx", load_external_data=False)
    assert external_locations(saved) == ("weights.data",)
    assert equal(
        run(tmp_path / "patched.onnx"), run(atpatch_onnx.patch_model(tmp_path / "model.onnx", **FIRING).output)
    )


def test_external_data_in_a_subgraph_keeps_its_folder(tmp_path):
    inner = attention_model()
    weight = onnx.numpy_helper.from_array(np.ones((8, 8), np.float32), "inner_weight")
    value = onnx.helper.make_tensor_value_info("z", 1, ["batch", "sequence", 8])
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["y", "inner_weight"], ["z"])], "b", [], [value], [weight]
    )
    other = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["y"], ["z"])], "c", [], [value])
    inner.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    inner.graph.node.append(onnx.helper.make_node("If", ["yes"], ["result"], then_branch=branch, else_branch=other))
    inner.graph.output.append(onnx.helper.make_tensor_value_info("result", 1, ["batch", "sequence", 8]))
    save_external(inner, tmp_path / "model.onnx")
    patched = atpatch_onnx.patch_model(onnx_ir.load(tmp_path / "model.onnx"), **SILENT)
    external = [
        v.const_value
        for g in patched.graphs()
        for v in g.initializers.values()
        if isinstance(v.const_value, onnx_ir.ExternalTensor)
    ]
    assert "inner_weight" in {tensor.name for tensor in external}
    assert {Path(tensor.base_dir) for tensor in external} == {tmp_path}
    assert equal(run(patched), run(tmp_path / "model.onnx"))


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_round_trip_through_onnx_ir_computes_the_same(family, tmp_path):
    exported = export_model(family, "dynamo", "eager")
    patched = atpatch_onnx.patch_model(onnx_ir.load(exported.path), **FIRING)
    onnx_ir.save(patched, tmp_path / "ir.onnx")
    atpatch_onnx.patch_model(exported.path, tmp_path / "file.onnx", **FIRING)
    feeds = exported.feeds(3, padded=True)
    ours, theirs = (ort.InferenceSession(tmp_path / name).run(None, feeds) for name in ("ir.onnx", "file.onnx"))
    assert equal(ours, theirs)
    assert not equal(ours, ort.InferenceSession(exported.path).run(None, feeds))


def test_a_file_that_onnx_ir_wrote_is_unpatched_byte_for_byte(tmp_path):
    onnx_ir.save(onnx_ir.from_proto(attention_model(layers=2)), tmp_path / "model.onnx")
    onnx_ir.save(
        atpatch_onnx.patch_model(onnx_ir.load(tmp_path / "model.onnx"), detector="statistic"), tmp_path / "patched.onnx"
    )
    atpatch_onnx.unpatch_model(tmp_path / "patched.onnx", tmp_path / "back.onnx")
    assert model_io.load(tmp_path / "back.onnx") == model_io.load(tmp_path / "model.onnx")


@pytest.mark.parametrize(("family", "exporter"), [("bert", "torchscript"), ("bert", "dynamo"), ("swin", "torchscript")])
def test_a_patched_file_is_unpatched_through_onnx_ir(family, exporter, tmp_path):
    """onnx_ir does not keep a file's bytes, so what it read cannot have the original's digest; the graph comes back all
    the same.
    """
    path = export_model(family, exporter).path
    output = atpatch_onnx.patch_model(path, tmp_path / "patched.onnx", detector="statistic").output
    restored = onnx_ir.to_proto(atpatch_onnx.unpatch_model(onnx_ir.load(output)))
    original = onnx_ir.to_proto(onnx_ir.load(path))
    assert list(restored.graph.node) == list(original.graph.node)
    assert list(restored.graph.initializer) == list(original.graph.initializer)
    assert [value.name for value in restored.graph.input] == [value.name for value in original.graph.input]
    assert dict(_metadata(restored)) == dict(_metadata(original))


def _metadata(model: onnx.ModelProto):
    return [(entry.key, entry.value) for entry in model.metadata_props]


@pytest.mark.parametrize("damage", ["a node of ours is gone", "a node of theirs is gone", "ours reads elsewhere"])
def test_a_patched_graph_that_was_changed_is_refused(damage):
    patched = atpatch_onnx.patch_model(onnx_ir.from_proto(attention_model(layers=2)), detector="statistic")
    nodes = list(patched.graph)
    ours = [node for node in nodes if (node.outputs[0].name or "").startswith("atpatch/")]
    if damage == "ours reads elsewhere":
        nodes[-1].replace_input_with(0, ours[0].outputs[0])
    else:
        gone = ours[1] if damage == "a node of ours is gone" else nodes[0]
        for reader, index in gone.outputs[0].uses():
            reader.replace_input_with(index, gone.inputs[0])
        patched.graph.remove(gone)
    with pytest.raises(AtpatchError) as caught:
        atpatch_onnx.unpatch_model(patched)
    assert caught.value.code == "ATP014"


@pytest.mark.parametrize("form", ["file", "proto", "onnx_ir"])
def test_a_patched_graph_that_is_no_valid_graph_any_more_is_refused_as_such(form, tmp_path):
    patched = atpatch_onnx.patch_model(attention_model(layers=2), detector="static", columns=())
    made_by_us = [index for index, node in enumerate(patched.graph.node) if node.output[0].startswith("atpatch/")]
    del patched.graph.node[made_by_us[1]]
    (tmp_path / "model.onnx").write_bytes(patched.SerializeToString())
    held = {"file": tmp_path / "model.onnx", "proto": patched, "onnx_ir": onnx_ir.from_proto(patched)}[form]
    with pytest.raises(AtpatchError) as caught:
        atpatch_onnx.unpatch_model(held)
    assert caught.value.code == "ATP005"


def test_a_patched_graph_is_repatched_not_stacked():
    model = onnx_ir.from_proto(attention_model())
    once = atpatch_onnx.patch_model(model, **FIRING)
    assert onnx_ir.to_proto(atpatch_onnx.patch_model(once, **FIRING)) == onnx_ir.to_proto(once)


def test_an_onnx_ir_model_that_does_not_serialize_is_refused():
    model = onnx_ir.from_proto(attention_model())
    next(iter(model.graph.initializers.values())).const_value = None
    with pytest.raises(AtpatchError) as caught:
        atpatch_onnx.patch_model(model)
    assert caught.value.code == "ATP005"


# Hotfixes


@pytest.mark.parametrize("form", ["proto", "ir"])
def test_a_hotfix_goes_with_every_form(stored, form, monkeypatch):
    hotfix = hotfix_for(model_io.load(stored), stored.parent)
    monkeypatch.chdir(stored.parent)
    patched = atpatch_onnx.patch_model(as_form(stored, form), hotfix=hotfix)
    assert equal(run(patched), run(atpatch_onnx.patch_model(stored, hotfix=hotfix).output))


def test_a_hotfix_next_to_the_model_is_used_only_for_the_file(stored):
    hotfix_for(model_io.load(stored), stored.parent).save(stored.with_suffix(".hotfix"))
    assert atpatch_onnx.patch_model(stored).detector == "profile"
    with pytest.raises(AtpatchError) as caught:
        atpatch_onnx.patch_model(onnx_ir.load(stored))
    assert caught.value.code == "ATP061"


def test_a_proto_whose_external_data_is_elsewhere_takes_no_hotfix(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    save_external(attention_model(), tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    hotfix = hotfix_for(proto, tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(AtpatchError) as caught:
        atpatch_onnx.patch_model(proto, hotfix=hotfix)
    assert caught.value.code == "ATP003"
    assert atpatch_onnx.patch_model(onnx_ir.load(tmp_path / "model.onnx"), hotfix=hotfix) is not None


def test_fit_takes_every_form(tmp_path):
    """The same hotfix, whatever form the model comes in."""
    made = toy(padded=True)
    onnx.save_model(made.model, tmp_path / "model.onnx")
    hotfixes = [
        atpatch_onnx.fit(as_form(tmp_path / "model.onnx", form), made.debug, made.clean, threads=1)
        for form in ("proto", "ir")
    ]
    assert len({hotfix.digest for hotfix in hotfixes}) == 1
