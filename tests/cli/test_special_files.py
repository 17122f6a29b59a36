"""Every command: a FIFO as a source does not hang it, and no destination but a regular file is replaced.

Long names get one line.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest

from ..tiny import attention_model, plain_model, save_external
from .hotfixes import hotfix_for

# What each command reads: the argument to be replaced is FILE.
SOURCES = {
    "inspect": "inspect FILE",
    "patch": "patch FILE",
    "patch in place": "patch FILE --in-place",
    "patch, hotfix": "patch model.onnx --hotfix FILE",
    "patch, detector": "patch model.onnx --detector onnx --detector-model FILE",
    "unpatch": "unpatch FILE",
    "extract": "extract FILE site -o out.onnx",
    "diff": "diff FILE model.onnx",
    "diff, second": "diff model.onnx FILE",
    "fit": "fit FILE --debug data.npz",
    "fit, debug": "fit model.onnx --debug FILE",
    "fit, clean": "fit model.onnx --detector oneclass --clean FILE",
    "compare": "compare FILE model.onnx --data data.npz",
    "compare, data": "compare model.onnx model.onnx --data FILE",
    "compare, load": "compare --load FILE",
    "bench": "bench FILE model.onnx",
    "debugset": "debugset FILE --data data.npz --trigger-patch 2x2 --target 0 -o out.npz",
    "debugset, texts": "debugset model.onnx --data FILE.tsv --tokenizer . --trigger cf --target 0 -o out.npz",
    "debugset, columns": "debugset model.onnx --data rows.csv --columns FILE --attribute sex -o out.npz",
    "ab, outcomes": "ab analyze log.jsonl --outcomes FILE",
    "deploy": "deploy triton FILE model.onnx served --name served",
}
# What each command writes.
DESTINATIONS = {
    "patch": "patch model.onnx -o FILE",
    "unpatch": "unpatch patched.onnx -o FILE",
    "extract": "extract model.onnx layers.0 -o FILE",
    "inspect": "inspect model.onnx --html FILE",
    "fit": "fit model.onnx --debug data.npz -o FILE",
    "fit, report": "fit model.onnx --debug data.npz --report FILE",
    "compare, save": "compare model.onnx patched.onnx --data data.npz --save FILE",
    "compare, report": "compare model.onnx patched.onnx --data data.npz --report FILE.html",
    "debugset": "debugset model.onnx --data data.npz --trigger-patch 2x2 --target 0 -o FILE",
    "ab": "ab analyze log.jsonl --html FILE",
    "serve, log": "serve model.onnx patched.onnx --port 0 --log FILE",
}
_FOLDERS_MADE = {"inspect", "fit, report", "compare, report", "ab"}
"""Pages make their folder."""


@pytest.fixture
def room(tmp_path, monkeypatch, atpatch):
    """A folder with good files, and an alarm that ends a hanging test."""
    monkeypatch.chdir(tmp_path)
    onnx.save_model(attention_model(), "model.onnx")
    assert atpatch("patch", "model.onnx", "--detector", "statistic", "-o", "patched.onnx").code == 0
    np.savez("data.npz", x=np.zeros((4, 5, 8), np.float32), labels=np.zeros(4, np.int64))
    Path("log.jsonl").write_text("{}\n")
    Path("rows.csv").write_text("sex,label\n1,0\n")
    Path("vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\ncf\n")
    signal.alarm(60)
    yield tmp_path
    signal.alarm(0)


def command(template: str, path: object) -> list[str]:
    return [part.replace("FILE", str(path)) for part in template.split()]


@pytest.mark.parametrize("template", SOURCES.values(), ids=SOURCES)
def test_a_fifo_is_not_waited_for(room, atpatch, template):
    for name in ("fifo", "fifo.tsv"):
        os.mkfifo(name)
    run = atpatch(*command(template, "fifo"))
    assert (run.code, run.err.split(":")[0], run.out) == (2, "error ATP021", "")


@pytest.mark.parametrize("template", SOURCES.values(), ids=SOURCES)
def test_a_name_too_long_to_exist(room, atpatch, template):
    run = atpatch(*command(template, "n" * 300))
    assert (run.code, run.err.split(":")[0], run.out) == (2, "error ATP002", "")
    assert len(run.err.splitlines()) == 2


def test_a_log_that_is_a_fifo_is_no_log(room, atpatch):
    os.mkfifo("fifo")
    for name in ("fifo", "n" * 300):
        assert "ATP087" in atpatch("ab", "analyze", name).err


def test_external_data_that_is_a_fifo_is_not_there(tmp_path, atpatch):
    save_external(attention_model(), tmp_path / "model.onnx")
    (tmp_path / "weights.data").unlink()
    os.mkfifo(tmp_path / "weights.data")
    assert "ATP003" in atpatch("patch", tmp_path / "model.onnx").err


@pytest.mark.parametrize("kind", ["FIFO", "link", "dangling link"])
@pytest.mark.parametrize("template", DESTINATIONS.values(), ids=DESTINATIONS)
def test_only_a_regular_file_is_replaced(room, atpatch, template, kind):
    Path("other").write_bytes(b"kept")
    for name in ("special", "special.html"):
        os.mkfifo(name) if kind == "FIFO" else Path(name).symlink_to("other" if kind == "link" else "/nowhere/at/all")
    before = sorted(os.listdir())
    if "--log" in template and kind == "link":
        return  # a log may be a link, since it is appended to
    run = atpatch(*command(template, "special"))
    code = "ATP019" if "--log" in template and kind == "dangling link" else "ATP021"
    assert (run.code, run.err.split(":")[0], run.out) == (2, f"error {code}", "")
    assert sorted(os.listdir()) == before
    assert Path("other").read_bytes() == b"kept"
    assert Path("special").is_fifo() if kind == "FIFO" else Path("special").is_symlink()


@pytest.mark.parametrize(("name", "template"), DESTINATIONS.items(), ids=DESTINATIONS)
def test_an_output_that_cannot_be_written_is_reported_before_the_work(room, atpatch, name, template):
    before = sorted(os.listdir())
    for path in ["n" * 300, *([] if name in _FOLDERS_MADE else ["missing/out"])]:
        run = atpatch(*command(template, path))
        assert (run.code, run.err.split(":")[0], run.out) == (2, "error ATP019", "")
        assert len(run.err.splitlines()) == 2
        assert sorted(os.listdir()) == before


def test_a_name_of_255_bytes_is_written(room, atpatch):
    name = "é" * 125 + ".onnx"
    assert atpatch("patch", "model.onnx", "--detector", "statistic", "-o", name).code == 0
    assert atpatch("unpatch", name, "-o", "n" * 250 + ".onnx").code == 0


def test_a_link_is_read_but_not_written_in_place(room, atpatch):
    Path("link.onnx").symlink_to("model.onnx")
    assert atpatch("inspect", "link.onnx").code == 0
    run = atpatch("patch", "link.onnx", "--detector", "statistic", "--in-place")
    assert (run.code, run.err.split(":")[0]) == (2, "error ATP021")
    assert Path("link.onnx").is_symlink()


def test_a_hotfix_next_to_the_model_is_used(room, atpatch):
    """A FIFO or a broken link there would otherwise mean:
    patched with another detector than the one that was fitted.
    """
    os.mkfifo("model.hotfix")
    assert "ATP021" in atpatch("patch", "model.onnx").err
    Path("model.hotfix").unlink()
    Path("model.hotfix").symlink_to("gone")
    assert "ATP002" in atpatch("patch", "model.onnx").err


@pytest.mark.parametrize("arguments", [["unpatch", ""], ["fit", "", "--debug", "x"]])
def test_what_is_no_file_name_at_all(room, atpatch, arguments):
    assert "ATP002" in atpatch(*arguments).err


@pytest.mark.parametrize("folder", [".", "/"])
def test_a_folder_that_is_no_model_is_not_looked_through(room, atpatch, folder):
    assert "ATP092" in atpatch("patch", folder).err


def test_the_way_out_of_atp010_fits(room, atpatch):
    onnx.save_model(plain_model(), "plain.onnx")
    for name in ("patch", "inspect"):
        err = atpatch(name, "plain.onnx").err
        assert "no Softmax or attention operator" in err
        assert "each" not in err
        assert "--include" in atpatch(name, "model.onnx", "--include", "nothing").err


def test_hotfixes_are_saved_the_same_way(room):
    Path("model.hotfix").symlink_to("elsewhere")
    with pytest.raises(Exception, match="ATP021"):
        hotfix_for(attention_model(), room).save("model.hotfix")
