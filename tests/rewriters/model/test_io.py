"""`rewriters.model.io`: loading without weights, saving in one step, external data that stays where it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from atpatch_onnx import patch_model, unpatch_model
from rewriters.errors import AtpatchError
from rewriters.model import io as model_io
from rewriters.model.external_data import external_locations, walk_tensors

from ...tiny import attention_model, save_external, snapshot

X = np.random.default_rng(1).standard_normal((2, 5, 8)).astype(np.float32)


def run(path: Path) -> np.ndarray:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


@pytest.fixture
def external(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    save_external(attention_model(), folder / "model.onnx")
    return folder / "model.onnx"


def code_of(action) -> str:
    with pytest.raises(AtpatchError) as caught:
        action()
    return caught.value.code


# Loading


def test_load_gives_the_file_field_for_field(model_path):
    assert model_io.load(model_path) == onnx.load(model_path)


def test_load_leaves_external_weights_on_disk(external):
    model = model_io.load(external)
    assert external_locations(model) == ("weights.data",)
    assert all(not t.raw_data for t in walk_tensors(model) if t.data_location == TensorProto.EXTERNAL)


def reordered(model: onnx.ModelProto) -> onnx.ModelProto:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_nodes_may_stand_in_any_order(tmp_path):
    onnx.save_model(attention_model(), tmp_path / "sorted.onnx")
    onnx.save_model(reordered(attention_model()), tmp_path / "m.onnx")
    patched = patch_model(tmp_path / "m.onnx", detector="static", columns=(1,))
    want = patch_model(tmp_path / "sorted.onnx", detector="static", columns=(1,))
    np.testing.assert_array_equal(run(patched.output), run(want.output))
    assert not np.allclose(run(patched.output), run(tmp_path / "m.onnx"), atol=1e-4)
    restored = unpatch_model(patched.output)
    assert onnx.load(restored.output) == onnx.load(tmp_path / "m.onnx")


def test_a_cycle_is_refused(tmp_path):
    model = attention_model()
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]
    onnx.save_model(model, tmp_path / "m.onnx")
    assert code_of(lambda: model_io.load(tmp_path / "m.onnx")) == "ATP005"


def test_custom_domains_pass_the_checker(tmp_path):
    model = attention_model()
    model.graph.node[-1].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save_model(model, tmp_path / "m.onnx")
    assert model_io.load(tmp_path / "m.onnx") == model


def test_hard_linked_data_loads(external, tmp_path):
    """onnx's own loader refuses it, onnxruntime does not; file systems and caches make such links by themselves."""
    os.link(external.parent / "weights.data", tmp_path / "second-name")
    assert external_locations(model_io.load(external)) == ("weights.data",)


@pytest.mark.parametrize("holder", ["subgraph", "function", "attribute"])
def test_external_data_is_found_everywhere(tmp_path, holder):
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../t.data")
    model = attention_model()
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    if holder == "attribute":
        model.graph.node.insert(0, constant)
    elif holder == "function":
        model.functions.append(helper.make_function("local", "f", [], ["c"], [constant], [helper.make_opsetid("", 17)]))
    else:
        graph = helper.make_graph(
            [helper.make_node("Identity", ["t"], ["u"])], "b", [], [helper.make_empty_tensor_value_info("u")], [tensor]
        )
        model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=graph, else_branch=graph))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert code_of(lambda: model_io.load(tmp_path / "m.onnx")) == "ATP004"


@pytest.mark.parametrize(("offset", "length", "dims", "fits"), [
    (0, 16, [4], True),
    (4, 12, [3], True),
    (0, None, [4], True),
    (8, None, [2], True),
    (4, 16, [4], False),
    (20, 0, [0], False),
    (0, None, [5], False),
    (0, 8, [4], False),
])  # fmt: skip
def test_external_data_must_be_long_enough(tmp_path, offset, length, dims, fits):
    (tmp_path / "t.data").write_bytes(bytes(16))
    model = attention_model()
    tensor = model.graph.initializer.add(
        name="t", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL
    )
    for key, value in {"location": "t.data", "offset": offset, "length": length}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    if fits:
        model_io.load(tmp_path / "m.onnx")
    else:
        assert code_of(lambda: model_io.load(tmp_path / "m.onnx")) == "ATP003"


def test_packed_types_need_half_a_byte_an_element(tmp_path):
    (tmp_path / "t.data").write_bytes(bytes(3))
    model = attention_model()
    tensor = model.graph.initializer.add(
        name="t", data_type=TensorProto.INT4, dims=[5], data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value="t.data")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    model_io.load(tmp_path / "m.onnx")
    tensor.dims[0] = 7
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert code_of(lambda: model_io.load(tmp_path / "m.onnx")) == "ATP003"


@pytest.mark.parametrize(("opset", "refused"), [(6, True), (10, True), (11, False), (17, False)])
def test_require_opset(opset, refused):
    model = attention_model(opset=opset)
    if refused:
        assert code_of(lambda: model_io.require_opset(model)) == "ATP006"
    else:
        model_io.require_opset(model)


# Digests


def test_digest_sees_any_field():
    model = attention_model()
    before = model_io.digest(model)
    model.metadata_props.add(key="k", value="v")
    assert model_io.digest(model) != before


def test_weights_digest_is_the_same_inside_and_outside_the_file(external):
    inside = model_io.weights_digest(attention_model(), external.parent)
    assert model_io.weights_digest(model_io.load(external), external.parent) == inside


def test_weights_digest_is_the_same_for_raw_and_typed_storage():
    model = attention_model()
    before = model_io.weights_digest(model, ".")
    tensor = model.graph.initializer[0]
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, array.shape, array.ravel()))
    assert model_io.weights_digest(model, ".") == before


def test_weights_digest_sees_one_changed_weight(external):
    before = model_io.weights_digest(model_io.load(external), external.parent)
    data = bytearray((external.parent / "weights.data").read_bytes())
    data[0] ^= 1
    (external.parent / "weights.data").write_bytes(data)
    assert model_io.weights_digest(model_io.load(external), external.parent) != before


# Saving


def test_save_round_trip_keeps_every_field(tmp_path, model_path):
    model = model_io.load(model_path)
    model_io.save(model, tmp_path / "again.onnx")
    assert model_io.load(tmp_path / "again.onnx") == model


def test_saving_twice_gives_the_same_sizes(external):
    for name in ("a.onnx", "a.onnx", "b.onnx"):
        before = (external.parent / "weights.data").stat()
        model_io.save(model_io.load(external), external.parent / name, external.parent)
        after = (external.parent / "weights.data").stat()
        assert (after.st_size, after.st_ino, after.st_mtime_ns, after.st_nlink) == (
            before.st_size,
            before.st_ino,
            before.st_mtime_ns,
            1,
        )
    assert (external.parent / "a.onnx").stat().st_size == (external.parent / "b.onnx").stat().st_size
    assert sorted(os.listdir(external.parent)) == ["a.onnx", "b.onnx", "model.onnx", "weights.data"]


def test_the_folder_can_be_moved(external, tmp_path):
    expected = run(external)
    shutil.move(external.parent, tmp_path / "moved")
    model_io.save(model_io.load(tmp_path / "moved/model.onnx"), tmp_path / "moved/b.onnx")
    assert np.array_equal(run(tmp_path / "moved/b.onnx"), expected)


def test_another_folder_gets_its_own_data(external, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    for _ in range(2):  # the second time the file is there already, with the same content
        model_io.save(model_io.load(external), target / "m.onnx", external.parent)
    assert sorted(os.listdir(target)) == ["m.onnx", "weights.data"]
    assert (target / "weights.data").stat().st_nlink == 1
    onnx.checker.check_model(str(target / "m.onnx"))  # refuses hard links
    assert np.array_equal(run(target / "m.onnx"), run(external))


def test_hard_links_on_request(external, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    model_io.save(model_io.load(external), target / "m.onnx", external.parent, link_data=True)
    assert (target / "weights.data").samefile(external.parent / "weights.data")
    assert np.array_equal(run(target / "m.onnx"), run(external))


def test_data_in_a_subfolder_keeps_its_place(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "parts").mkdir(parents=True)
    target.mkdir()
    save_external(attention_model(), source / "model.onnx", "weights.data")
    (source / "weights.data").rename(source / "parts/w.data")
    model = onnx.load(source / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "parts/w.data" if entry.key == "location" else entry.value
    (source / "model.onnx").write_bytes(model.SerializeToString())
    model_io.save(model_io.load(source / "model.onnx"), target / "m.onnx", source)
    assert list(snapshot(target)) == ["m.onnx", "parts/w.data"]


def test_a_different_file_in_the_way_is_not_changed(external, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "weights.data").write_bytes(b"another model's weights")
    before = snapshot(tmp_path)
    assert code_of(lambda: model_io.save(model_io.load(external), target / "m.onnx", external.parent)) == "ATP018"
    assert snapshot(tmp_path) == before


def test_the_output_cannot_be_the_data_file(external):
    before = snapshot(external.parent)
    assert code_of(lambda: model_io.save(model_io.load(external), external.parent / "weights.data")) == "ATP018"
    assert snapshot(external.parent) == before


def test_a_sparse_data_file_stays_sparse_in_another_folder(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    data = tmp_path / "source/t.data"
    with data.open("wb") as file:
        file.write(b"start")
        file.truncate(1 << 28)
    if data.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("this file system has no holes")
    model = attention_model()
    tensor = model.graph.initializer.add(
        name="t", data_type=TensorProto.INT8, dims=[1 << 28], data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value="t.data")
    model_io.save(model, tmp_path / "target/m.onnx", tmp_path / "source")
    copy = (tmp_path / "target/t.data").stat()
    assert copy.st_size == 1 << 28
    assert copy.st_blocks * 512 < 1 << 20
    with (tmp_path / "target/t.data").open("rb") as file:
        assert file.read(6) == b"start\0"


def test_a_failed_write_leaves_what_was_there(tmp_path, external, monkeypatch):
    """The disk fills up between the data and the model."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "m.onnx").write_bytes(b"the old file")
    model = model_io.load(external)
    before = snapshot(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert code_of(lambda: model_io.save(model, target / "m.onnx", external.parent)) == "ATP019"
    assert snapshot(tmp_path) == before


def test_an_interrupted_write_leaves_what_was_there(tmp_path, external, monkeypatch):
    target = tmp_path / "target"
    target.mkdir()
    model = model_io.load(external)
    before = snapshot(tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model_io.save(model, target / "m.onnx", external.parent)
    assert snapshot(tmp_path) == before


def test_an_invalid_model_is_not_written(tmp_path):
    model = attention_model()
    model.graph.node[0].input[0] = "nowhere"
    assert code_of(lambda: model_io.save(model, tmp_path / "m.onnx")) == "ATP005"
    assert snapshot(tmp_path) == {}


def test_the_mode_of_a_replaced_file_is_kept_and_new_files_follow_the_umask(tmp_path, model_path):
    model_path.chmod(0o640)
    model = model_io.load(model_path)
    model_io.save(model, model_path)
    assert model_path.stat().st_mode & 0o777 == 0o640
    old = os.umask(0o027)
    try:
        model_io.save(model, tmp_path / "new.onnx")
    finally:
        os.umask(old)
    assert (tmp_path / "new.onnx").stat().st_mode & 0o777 == 0o640
