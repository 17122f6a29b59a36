"""Reading `.npz` data sets: what is accepted, and a code for all that is not."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import DataSet, as_dataset, load_dataset

GOOD = {
    "input_ids": np.arange(12).reshape(4, 3),
    "labels": np.array([0, 1, 0, 1], np.int32),
    "columns": np.array([[0, 0, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1]]),
    "pair": np.array([-1, -1, 0, 1]),
    "target": np.array(1),
}


def test_everything_has_its_place(tmp_path):
    np.savez(tmp_path / "d.npz", **GOOD, clean_row=np.arange(4), group=np.array([0, 0, 1, 1]))
    data = load_dataset(tmp_path / "d.npz")
    assert list(data.inputs) == ["input_ids"] and len(data) == 4
    assert data.columns.dtype == bool and data.labels.dtype == np.int64
    assert data.target == 1 and data.pair.tolist() == [-1, -1, 0, 1]
    assert data.clean_row.tolist() == [0, 1, 2, 3] and data.group.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(data.feeds(np.array([2, 0]))["input_ids"], GOOD["input_ids"][[2, 0]])


def test_arrays_and_data_sets_are_taken_as_they_are():
    data = as_dataset(GOOD)
    assert isinstance(data, DataSet) and as_dataset(data) is data


def test_digest_sees_every_array():
    digests = {
        as_dataset({**GOOD, **change}).digest
        for change in ({}, {"target": np.array(0)}, {"labels": np.array([0, 1, 1, 1])})
    }
    assert len(digests) == 3
    assert as_dataset(dict(reversed(GOOD.items()))).digest == as_dataset(GOOD).digest


BAD = {
    "no-input": ({"labels": np.zeros(4, int)}, "no graph input"),
    "rows-differ": ({**GOOD, "mask": np.ones((5, 3))}, "'mask'"),
    "no-rows": ({"x": np.zeros((0, 3))}, "'x'"),
    "scalar-input": ({**GOOD, "step": np.array(1.0)}, "'step'"),
    "nan": ({"x": np.array([[1.0, np.nan]])}, "'x'"),
    "labels-float": ({**GOOD, "labels": np.zeros(4)}, "labels"),
    "labels-short": ({**GOOD, "labels": np.zeros(3, int)}, "labels"),
    "columns-flat": ({**GOOD, "columns": np.zeros(4, bool)}, "columns"),
    "columns-two": ({**GOOD, "columns": np.full((4, 3), 2)}, "columns"),
    "pair-outside": ({**GOOD, "pair": np.array([-1, -1, 0, 4])}, "pair"),
    "pair-below": ({**GOOD, "pair": np.array([-1, -2, 0, 1])}, "pair"),
    "pair-anomalous": ({**GOOD, "pair": np.array([-1, -1, 0, 2])}, "partner"),
    "target-two": ({**GOOD, "target": np.array([0, 1])}, "target"),
}


@pytest.mark.parametrize(("arrays", "words"), BAD.values(), ids=BAD)
def test_inconsistent_sets_are_refused_by_name(tmp_path, arrays, words):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(AtpatchError) as error:
        load_dataset(tmp_path / "d.npz")
    assert error.value.code == "ATP056"
    assert words in error.value.what


def _pickled(path):
    np.savez(path, x=np.array([{"a": 1}], dtype=object))


def _single(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _truncated(path):
    np.savez(path, **GOOD)
    path.write_bytes(path.read_bytes()[:-40])


FILES = {
    "pickled": _pickled,
    "single-array": _single,
    "truncated": _truncated,
    "text": lambda p: p.write_text("no"),
    "empty": lambda p: p.touch(),
}


@pytest.mark.parametrize("write", FILES.values(), ids=FILES)
def test_unreadable_files_are_refused(tmp_path, write):
    path = tmp_path / "d.npz"
    write(path)
    with pytest.raises(AtpatchError) as error:
        load_dataset(path)
    assert error.value.code == "ATP056"


def test_pickled_objects_are_never_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    np.savez(tmp_path / "d.npz", x=np.array([Evil()], dtype=object))
    with pytest.raises(AtpatchError):
        load_dataset(tmp_path / "d.npz")
    assert not (tmp_path / "harm").exists()


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(AtpatchError) as error:
            load_dataset(path)
        assert error.value.code == "ATP002"


def _npy(shape: str, content: bytes = b"", descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content


@pytest.mark.parametrize(
    "member",
    [
        _npy("(1099511627776,)"),
        _npy("(4, 3)", bytes(40)),
        _npy("(4, 3)", bytes(56)),
        _npy("(-4, -3)", bytes(48)),
        _npy("(1, 1)", bytes(4), "[('a', '|O')]"),
        _npy("(1152921504606846976,)", descr="'<U0'"),
        _npy("x" * 60),
        _npy("(3,"),
        b"",
        b"no array",
    ],
)
def test_headers_are_held_against_the_content(tmp_path, member):
    """numpy makes room for the shape first: four terabytes here, for a file of a hundred bytes."""
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(AtpatchError, match="ATP056"):
        load_dataset(tmp_path / "d.npz")


def test_an_archive_larger_than_memory_is_not_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "d.npz", x=np.zeros((1000, 100), np.float32))
    assert len(load_dataset(tmp_path / "d.npz")) == 1000
    monkeypatch.setattr("atpatch_onnx.inference.npz._memory", lambda: 100_000)
    with pytest.raises(AtpatchError, match="more than this machine's memory"):
        load_dataset(tmp_path / "d.npz")


@pytest.mark.parametrize("name", ["labels", "pair", "target"])
def test_numbers_beyond_64_bits_with_a_sign(name):
    value = np.full((), 2**64 - 1, np.uint64) if name == "target" else np.full(4, 2**64 - 1, np.uint64)
    with pytest.raises(AtpatchError, match="ATP056"):
        DataSet.from_arrays({**GOOD, name: value})
