"""The page: the verdict first, then the planted nodes and the trigger as pictures; nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx.auditing.auditor import audit
from atpatch_onnx.auditing.behavior.inversion import Searched
from atpatch_onnx.auditing.behavior.samples import Sample
from atpatch_onnx.auditing.finding import Finding
from atpatch_onnx.auditing.graph_picture import pictures
from atpatch_onnx.auditing.page import audit_page
from atpatch_onnx.auditing.result import Audit
from atpatch_onnx.auditing.verdict import judge
from atpatch_onnx.pages import save_page

from ..browser import needs_browser, tile_rows, width_of
from ..conftest import Run
from ..tiny import attention_model

pytest.importorskip("jinja2")
Atpatch = Callable[..., Run]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NAMES = ("/layers/0/Softmax", "/layers/0/context")
PLANTED = Finding("graph logic", "AUD131", "error", "there", "<b>one</b> planted", tuple(n.lstrip("/") for n in NAMES))


@pytest.fixture(scope="module")
def found() -> Audit:
    """An audit with a planted node, and an image trigger that a search found."""
    whole = audit(attention_model(), budget=0)
    image = np.zeros((1, 8, 8), np.float32)
    stamped = image.copy()
    stamped[0, 6:, 6:] = 1
    line = {"class": 0, "success": 0.98, "size": 4.0, "score": 4.0, "backdoor": True, "trigger": {"places": [[6, 6]]}}
    other = {**line, "class": 1, "size": 30.0, "backdoor": False}
    whole.behavior.searched = Searched("places", [line, other], 0)
    whole.behavior.samples = (Sample({"x": image}, {"x": stamped}, 3, 0),)
    verdict = judge([PLANTED], whole.not_tried, None)
    return replace(whole, findings=(PLANTED,), verdict=verdict)


def test_the_verdict_comes_first_and_names_are_escaped(found: Audit) -> None:
    html = audit_page(found)
    body = html[html.index("<main>") :]
    headline = re.search(r"<h1>(.*?)</h1>", body, re.DOTALL)
    assert headline and "The model is backdoored" in headline[1] and "<b>" not in headline[1]
    places = [body.index(part) for part in ("The planted nodes", "The trigger, on your rows", "Findings", "Not tried")]
    assert places == sorted(places)
    assert not re.search(r'(src|href)="(?!#|data:)', html)
    assert "http" not in body.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_planted_nodes_are_drawn_with_their_neighbors(found: Audit) -> None:
    (drawn,) = pictures(found.case.proto, found.findings)
    assert drawn.svg.count('class="box planted"') == 2 and drawn.left_out == 0
    assert drawn.svg.count('class="box own"') >= 2 and "/layers/0/Softmax" in drawn.svg
    assert pictures(found.case.proto, [replace(PLANTED, severity="note")]) == []


def test_a_clean_page_says_what_was_not_tried(model_path: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    assert atpatch("audit", model_path, "--html", tmp_path / "audit.html").code == 0
    html = (tmp_path / "audit.html").read_text("utf-8")
    assert "Nothing that looks like a backdoor was found" in html and "Not tried" in html and "AUD201" in html


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_fits_a_screen_and_a_phone(found: Audit, tmp_path: Path, width: int) -> None:
    pillow = pytest.importorskip("PIL.Image")
    (tmp_path / "audit.html").write_text(audit_page(found), "utf-8")
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", f"--window-size={width},2600"]
    command += [f"--screenshot={tmp_path / 'page.png'}", (tmp_path / "audit.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr and "Refused to" not in done.stderr
    picture = np.asarray(pillow.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert picture.shape[1] == width
    planted = np.abs(picture - np.array([0xC8, 0x55, 0x3D])).sum(2) < 30
    assert planted.sum() > 300
    # Nothing runs out of the page on the right.
    assert not (np.abs(picture[:, -3:] - picture[0, 0]).sum(2) > 30).any()


def test_names_cannot_change_the_direction_of_the_page(found: Audit, tmp_path: Path) -> None:
    odd = replace(found, findings=(replace(PLANTED, where="\u202e\x1b[31mdlo \u2066"),))
    page = save_page(audit_page(odd), tmp_path / "page.html").read_text("utf-8")
    assert "\ufffd\ufffd[31mdlo \ufffd" in page and not {"\u202e", "\x1b", "\u2066"} & set(page)


@needs_browser
@pytest.mark.parametrize(("width", "rows"), [(1400, [4]), (900, [2, 2]), (500, [2, 2])])
def test_tiles_fill_their_rows(tmp_path: Path, width: int, rows: list[int]) -> None:
    page = tmp_path / "audit.html"
    page.write_text(audit_page(audit(attention_model(), budget=0)), "utf-8")
    assert width_of(page, tmp_path, width) <= width
    assert tile_rows(page, tmp_path, width) == rows
