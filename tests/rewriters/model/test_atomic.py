"""`rewriters.model.atomic`: complete or not at all, even when the process is killed; `rewriters.model.regular_files`:
only regular files.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rewriters.errors import AtpatchError
from rewriters.model import atomic
from rewriters.model.atomic import staged, workshop, write_file
from rewriters.model.regular_files import check_destination, check_log, check_source


@pytest.fixture(autouse=True)
def way(request, monkeypatch):
    """The second way is what file systems get that have no files without a name."""
    if not getattr(request, "param", True):
        monkeypatch.delattr(os, "O_TMPFILE")


def code_of(action) -> str:
    with pytest.raises(AtpatchError) as caught:
        action()
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    return caught.value.code


BOTH = pytest.mark.parametrize("way", [True, False], ids=["without a name", "under a temporary name"], indirect=True)


@BOTH
def test_a_file_is_made_then_replaced_with_its_permissions(tmp_path, way):
    path = tmp_path / "out"
    write_file(path, b"one")
    path.chmod(0o640)
    write_file(path, b"two")
    assert (path.read_bytes(), path.stat().st_mode & 0o777, os.listdir(tmp_path)) == (b"two", 0o640, ["out"])


@BOTH
def test_a_new_file_follows_the_umask(tmp_path, way):
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "out", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


@BOTH
@pytest.mark.parametrize("there", [False, True])
def test_an_interrupt_leaves_everything_as_it_was(tmp_path, way, there):
    path = tmp_path / "out"
    if there:
        path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), staged(path, replace=True) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["out"] * there
    assert not there or path.read_bytes() == b"old"


@BOTH
def test_a_name_that_is_taken_meanwhile_is_kept(tmp_path, way):
    path = tmp_path / "out"
    with pytest.raises(FileExistsError), staged(path, replace=False) as file:
        file.write(b"new")
        path.write_bytes(b"another's")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"another's", ["out"])


@BOTH
def test_names_as_long_as_the_file_system_takes(tmp_path, way):
    write_file(tmp_path / ("n" * 255), b"x")
    write_file(tmp_path / ("n" * 255), b"y")
    assert code_of(lambda: write_file(tmp_path / ("n" * 256), b"x")) == "ATP019"
    assert code_of(lambda: write_file(tmp_path / ("é" * 128), b"x")) == "ATP019"
    assert os.listdir(tmp_path) == ["n" * 255]


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b", "missing/out", "file/out"])
def test_what_is_no_place_for_a_file(tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    assert code_of(lambda: write_file(tmp_path / name, b"")) == "ATP019"


# Killed


CHILD = """
import os, sys, time
from pathlib import Path
from rewriters.model.atomic import staged, workshop
if sys.argv[2] == "named": del os.O_TMPFILE
folder = Path(sys.argv[1])
with (workshop(folder) if sys.argv[2] == "workshop" else staged(folder / "out", replace=True)) as made:
    (made / "draft").write_bytes(bytes(9)) if sys.argv[2] == "workshop" else made.write(b"half")
    print("here", flush=True)
    time.sleep(60)
"""


def killed(folder: Path, way: str, number: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, folder, way], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "here\n"
    child.send_signal(number)
    child.wait(30)
    child.stdout.close()


def test_a_killed_save_leaves_nothing(tmp_path):
    killed(tmp_path, "nameless", signal.SIGKILL)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("way_of_child", ["named", "workshop"])
def test_what_a_killed_save_leaves_is_removed_by_the_next(tmp_path, way_of_child):
    for _ in range(2):
        killed(tmp_path, way_of_child, signal.SIGKILL)
        assert len(os.listdir(tmp_path)) == 1
    write_file(tmp_path / "other", b"")
    assert os.listdir(tmp_path) == ["other"]


def test_a_save_under_way_is_not_disturbed(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE")
    with workshop(tmp_path) as folder, staged(tmp_path / "one", replace=True) as one:
        one.write(b"1")
        (folder / "draft").write_bytes(b"")
        write_file(tmp_path / "two", b"2")
        assert (folder / "draft").exists()
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_a_folder_is_not_stale_before_its_lock(tmp_path, monkeypatch):
    lock = atomic._lock

    def late(descriptor: int) -> None:
        atomic._remove_stale(tmp_path)
        lock(descriptor)

    monkeypatch.setattr(atomic, "_lock", late)
    with workshop(tmp_path) as folder:
        assert os.listdir(tmp_path) == [folder.name] and os.listdir(folder) == ["lock"]


def test_a_file_removed_before_its_lock_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE")
    lock, robbed = atomic._lock, []

    def late(descriptor: int) -> None:
        if not robbed:
            robbed.extend(tmp_path.iterdir())
            robbed[0].unlink()
        lock(descriptor)

    monkeypatch.setattr(atomic, "_lock", late)
    write_file(tmp_path / "out", b"x")
    assert (len(robbed), os.listdir(tmp_path), (tmp_path / "out").read_bytes()) == (1, ["out"], b"x")


def test_files_of_others_are_never_stale(tmp_path):
    for name in (".atpatch-notes", ".atpatch-x.tmp.bak", "atpatch-x.tmp", ".x.tmp"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".atpatch-link.tmp").symlink_to("atpatch-x.tmp")
    os.mkfifo(tmp_path / ".atpatch-fifo.tmp")
    before = set(os.listdir(tmp_path))
    started = time.monotonic()
    write_file(tmp_path / "out", b"")
    assert set(os.listdir(tmp_path)) >= before - {".atpatch-fifo.tmp"} | {"out"}
    assert time.monotonic() - started < 5


# Not regular


@pytest.fixture
def special(tmp_path, request):
    """A path of one kind, and how it looks before it is touched."""
    path = tmp_path / "special"
    (tmp_path / "target").write_bytes(b"kept")
    with socket.socket(socket.AF_UNIX) as end:
        match request.param:
            case "FIFO":
                os.mkfifo(path)
            case "socket":
                here = os.getcwd()
                os.chdir(tmp_path)  # names of sockets are short
                end.bind("special")
                os.chdir(here)
            case "link":
                path.symlink_to("target")
            case "dangling link":
                path.symlink_to("nowhere")
            case "looping link":
                path.symlink_to("special")
            case "folder":
                path.mkdir()
        yield path


@pytest.mark.parametrize(
    ("special", "code"),
    [
        ("FIFO", "ATP021"),
        ("socket", "ATP021"),
        ("link", "ATP021"),
        ("dangling link", "ATP021"),
        ("looping link", "ATP021"),
        ("folder", "ATP019"),
    ],
    indirect=["special"],
)
def test_only_regular_files_are_replaced(special, code):
    before = (special.lstat().st_mode, special.lstat().st_ino)
    assert code_of(lambda: write_file(special, b"new")) == code
    assert (special.lstat().st_mode, special.lstat().st_ino) == before
    assert sorted(os.listdir(special.parent)) == ["special", "target"]
    assert (special.parent / "target").read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("special", "code"),
    [
        ("FIFO", "ATP021"),
        ("socket", "ATP021"),
        ("link", None),
        ("dangling link", "ATP002"),
        ("looping link", "ATP002"),
        ("folder", "ATP002"),
    ],
    indirect=["special"],
)
def test_only_regular_files_are_read(special, code):
    assert (check_source(special) == special) if code is None else (code_of(lambda: check_source(special)) == code)


@pytest.mark.parametrize(
    ("special", "code"), [("FIFO", "ATP021"), ("link", None), ("folder", "ATP019")], indirect=["special"]
)
def test_a_log_may_be_a_link(special, code):
    assert (check_log(special) == special) if code is None else (code_of(lambda: check_log(special)) == code)


def test_devices_are_refused_before_anything_is_opened():
    """Only asked: nothing here opens or changes the device."""
    assert code_of(lambda: check_destination(os.devnull)) == "ATP021"
    assert code_of(lambda: check_source(os.devnull)) == "ATP021"


SLOW_COMMAND = """
import os, time
import click
import atpatch_onnx.cli.inspect as module
from pathlib import Path
from rewriters.model.atomic import staged
del os.O_TMPFILE
@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def inspect():
    with staged(Path("out"), replace=True) as file:
        file.write(b"half")
        print("here", flush=True)
        time.sleep(60)
module.inspect = inspect
"""


def test_sigterm_cleans_up_as_an_interrupt_does(tmp_path, monkeypatch):
    """A command in the middle of a save, on a file system without files without a name."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "sitecustomize.py").write_text(SLOW_COMMAND)
    monkeypatch.setenv("PYTHONPATH", str(code), prepend=":")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    child = subprocess.Popen([sys.executable, "-m", "atpatch_onnx", "inspect"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "here\n"
    assert len(os.listdir(work)) == 1
    child.terminate()
    assert child.wait(30) == 128 + signal.SIGTERM
    child.stdout.close()
    assert os.listdir(work) == []


def test_a_folder_that_is_not_there_has_no_room_for_a_workshop(tmp_path):
    with pytest.raises(AtpatchError, match="ATP019"), workshop(tmp_path / "missing"):
        pass
