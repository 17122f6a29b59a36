"""A folder made like another one: what is linked, what is copied, what is refused, and that it appears in one step."""

from __future__ import annotations

import os

import pytest

from rewriters.errors import AtpatchError
from rewriters.model.folders import check_new_folder, members, mirror, new_folder

LARGE = 1 << 20


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep" / "weights.bin").write_bytes(bytes(LARGE))
    (folder / ".atpatch-left.tmp").write_text("of a killed process")
    return folder


def made_of(source, destination, **options):
    with new_folder(destination) as unfinished:
        return mirror(members(source), unfinished, **options)


def test_large_files_are_linked_and_small_ones_copied(source, tmp_path):
    done = made_of(source, tmp_path / "out")
    assert (done.linked, done.copied) == (1, 1)
    assert (tmp_path / "out/deep/weights.bin").samefile(source / "deep/weights.bin")
    assert not (tmp_path / "out/config.json").samefile(source / "config.json")
    assert (tmp_path / "out/deep/er").is_dir()
    assert sorted(os.listdir(tmp_path / "out")) == ["config.json", "deep"]


def test_without_links_everything_is_copied(source, tmp_path):
    assert made_of(source, tmp_path / "out", link=False).linked == 0
    copy = tmp_path / "out/deep/weights.bin"
    assert copy.read_bytes() == bytes(LARGE) and not copy.samefile(source / "deep/weights.bin")


def test_a_file_system_without_hard_links_gets_copies(source, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "not permitted")

    monkeypatch.setattr("rewriters.model.external_data.os.link", refuse)
    with new_folder(tmp_path / "out") as unfinished, monkeypatch.context() as inner:
        inner.setattr("rewriters.model.atomic.sys.platform", "other")  # no file without a name: that takes a link
        assert mirror(members(source), unfinished).linked == 0


def test_a_link_inside_leads_to_the_new_file(source, tmp_path):
    (source / "deep" / "latest").symlink_to(source / "config.json")
    made_of(source, tmp_path / "out")
    link = tmp_path / "out/deep/latest"
    assert os.readlink(link) == "../config.json" and link.resolve() == tmp_path / "out/config.json"


@pytest.mark.parametrize("target", ["../secret.txt", "/etc/hostname", "..", "circle"])
def test_a_link_out_of_the_folder_is_refused(source, tmp_path, target):
    (tmp_path / "secret.txt").write_text("not to be served")
    (source / "circle").symlink_to(target)
    with pytest.raises(AtpatchError, match="ATP027"):
        made_of(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def cache(tmp_path):
    """A snapshot as huggingface_hub lays it out."""
    snapshot, blobs = tmp_path / "models--a--b/snapshots/0123", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "aa").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/aa")
    return snapshot


def test_links_of_a_hugging_face_cache_become_files(tmp_path):
    made_of(cache(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out/config.json").is_symlink() and (tmp_path / "out/config.json").read_text() == "{}"


@pytest.mark.parametrize("target", ["../../../elsewhere", "../../refs"])
def test_a_cache_gives_no_way_to_other_files(tmp_path, target):
    snapshot = cache(tmp_path)
    (tmp_path / "elsewhere").write_text("not to be served")
    (tmp_path / "models--a--b/refs").write_text("0123")
    (snapshot / "more").symlink_to(target)
    with pytest.raises(AtpatchError, match="ATP027"):
        members(snapshot)


def test_blobs_that_are_a_link_themselves_are_no_cache(tmp_path):
    snapshot = cache(tmp_path)
    (tmp_path / "models--a--b/blobs").rename(tmp_path / "elsewhere")
    (tmp_path / "models--a--b/blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AtpatchError, match="ATP027"):
        members(snapshot)


def test_a_fifo_is_refused(source):
    os.mkfifo(source / "pipe")
    with pytest.raises(AtpatchError, match="ATP021"):
        members(source)


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("source", "ATP016"),
        ("source/", "ATP016"),
        ("deep/../source", "ATP016"),
        ("source/out", "ATP026"),
        ("alias/out", "ATP026"),
        ("full", "ATP025"),
        ("file", "ATP025"),
        ("alias", "ATP016"),
        ("dangling", "ATP025"),
        (".", "ATP025"),
        ("missing/out", "ATP019"),
        ("a\0b", "ATP019"),
        ("n" * 300, "ATP019"),
    ],
)
def test_places_for_a_new_folder(source, tmp_path, monkeypatch, output, code):
    monkeypatch.chdir(tmp_path)
    for folder in ("full", "deep", "full/inner"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "alias").symlink_to("source")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(AtpatchError, match=code):
        check_new_folder(output, source)


def test_an_empty_folder_is_filled(source, tmp_path):
    (tmp_path / "out").mkdir()
    made_of(source, tmp_path / "out")
    assert (tmp_path / "out/config.json").exists()


def test_what_appears_meanwhile_is_not_touched(source, tmp_path):
    with pytest.raises(AtpatchError, match="ATP025"), new_folder(tmp_path / "out") as unfinished:
        mirror(members(source), unfinished)
        (tmp_path / "out").mkdir()
        (tmp_path / "out/theirs").touch()
    assert os.listdir(tmp_path / "out") == ["theirs"] and sorted(os.listdir(tmp_path)) == ["out", "source"]


def test_a_failure_leaves_nothing(source, tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out") as unfinished:
        mirror(members(source), unfinished)
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["source"]
