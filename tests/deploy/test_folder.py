"""Where `deploy` writes: never outside its folder, never over what it did not write."""

from __future__ import annotations

import json
import os

import pytest

from atpatch_onnx.deploy.folder import MARKER
from atpatch_onnx.deploy.triton import deploy_triton
from atpatch_onnx.errors import AtpatchError

from ..tiny import snapshot


def refused(arms, folder, code="ATP090", **options) -> None:
    with pytest.raises(AtpatchError) as caught:
        deploy_triton(*arms, folder, **options)
    assert caught.value.code == code


def test_a_folder_with_something_else_is_refused_and_not_changed(arms, tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    before = snapshot(folder)
    refused(arms, folder)
    assert snapshot(folder) == before
    refused(arms, folder / "thesis.txt")
    refused(arms, folder / "thesis.txt" / "below", code="ATP019")


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"], ids=["too long", "NUL"])
def test_names_that_no_folder_can_have_are_refused(arms, tmp_path, name):
    refused(arms, tmp_path / name, code="ATP019")


def test_models_in_the_wrong_order_are_refused_before_anything_is_written(arms, tmp_path, atpatch):
    original, patched = arms
    for engine in ("triton", "kserve", "ray"):
        storage = ["--storage", "gs://bucket/model"] if engine == "kserve" else []
        done = atpatch("deploy", engine, patched, original, tmp_path / "out", *storage)
        assert done.code == 2 and "ATP060" in done.err and "the original comes first" in done.err, done.err
    assert not (tmp_path / "out").exists()


def test_a_second_run_replaces_the_first(arms, large_arms, tmp_path):
    folder = tmp_path / "r"
    deploy_triton(*arms, folder, name="one")
    deploy_triton(*large_arms, folder, name="two")
    assert {path.name for path in folder.iterdir()} == {MARKER, "two", "two-patched"}
    deploy_triton(*arms, folder, name="two")
    assert not (folder / "two" / "1" / "model.onnx").is_dir()
    deploy_triton(*large_arms, folder, name="two")
    assert (folder / "two" / "1" / "model.onnx" / "data" / "weights.bin").is_file()
    assert not list(tmp_path.rglob("*.tmp"))


def test_another_kind_of_deployment_is_foreign(arms, tmp_path, atpatch):
    deploy_triton(*arms, tmp_path / "r")
    done = atpatch("deploy", "kserve", *arms, tmp_path / "r", "--storage", "gs://b/x")
    assert done.code == 2
    assert done.err.startswith("error ATP090")


def test_what_was_added_later_stops_a_second_run(arms, tmp_path):
    deploy_triton(*arms, tmp_path / "r")
    (tmp_path / "r" / "mine").write_text("x")
    refused(arms, tmp_path / "r")


def test_a_broken_run_can_be_repeated(arms, tmp_path):
    """The list of files stands before the files do."""
    deploy_triton(*arms, tmp_path / "r")
    (tmp_path / "r" / "model-patched" / "config.pbtxt").unlink()
    (tmp_path / "r" / "model" / "1" / "model.onnx").write_bytes(b"half")
    done = deploy_triton(*arms, tmp_path / "r")
    assert (done.folder / "model" / "1" / "model.onnx").read_bytes() == arms[0].read_bytes()
    assert (done.folder / "model-patched" / "config.pbtxt").is_file()


@pytest.mark.parametrize("evil", ["../victim.txt", "/ABSOLUTE", "model/../../victim.txt", "link/victim.txt"])
def test_a_tampered_list_removes_nothing_outside(arms, tmp_path, evil):
    victim = tmp_path / "victim.txt"
    victim.write_text("keep")
    evil = evil.replace("/ABSOLUTE", str(victim))
    folder = tmp_path / "r"
    deploy_triton(*arms, folder)
    done = json.loads((folder / MARKER).read_text())
    (folder / MARKER).write_text(json.dumps(done | {"files": [*done["files"], evil]}))
    if evil.startswith("link"):
        os.symlink(tmp_path, folder / "link")
    deploy_triton(*arms, folder)
    assert victim.read_text() == "keep"


def test_a_link_inside_leads_nowhere(arms, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "r"
    deploy_triton(*arms, folder)
    for path in (folder / "model").rglob("*"):
        if path.is_file():
            path.unlink()
    (folder / "model" / "1").rmdir()
    (folder / "model").rmdir()
    os.symlink(elsewhere, folder / "model")
    refused(arms, folder)
    assert not list(elsewhere.iterdir())
    os.symlink(elsewhere, tmp_path / "direct")
    refused(arms, tmp_path / "direct")


def test_models_are_read_only_inputs(arms, large_arms, tmp_path):
    before = snapshot(arms[0].parent), snapshot(large_arms[0].parent)
    deploy_triton(*arms, tmp_path / "r")
    deploy_triton(*large_arms, tmp_path / "s")
    assert (snapshot(arms[0].parent), snapshot(large_arms[0].parent)) == before


def test_linked_data_costs_no_space(large_arms, tmp_path):
    deploy_triton(*large_arms, tmp_path / "r", link=True)
    placed = tmp_path / "r" / "model" / "1" / "model.onnx" / "data" / "weights.bin"
    assert placed.samefile(large_arms[0].parent / "data" / "weights.bin")
