"""The page in a real browser: chromium without a window, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from .asking import until
from .conftest import Served

pillow = pytest.importorskip("PIL.Image")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")


def browse(served: Served, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += ["--enable-logging=stderr", *arguments, f"http://127.0.0.1:{served.port}/"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.parametrize("width", [1200, 500])
def test_page_is_drawn(shadow: Served, digits: dict[str, np.ndarray], tmp_path: Path, width: int) -> None:
    shadow.infer(digits["triggered"][:8])
    until(lambda: shadow.metric("atpatch_shadow_pairs_total") > 0)
    dom = browse(shadow, tmp_path, "--dump-dom")
    assert "The patch would change" in dom.stdout and "Turn the patch off" in dom.stdout and "<rect" in dom.stdout
    # A script or style that the page's own policy forbids, or anything fetched from elsewhere, would be said here.
    assert "CONSOLE" not in dom.stderr and "Refused to" not in dom.stderr
    browse(shadow, tmp_path, f"--window-size={width},2000", f"--screenshot={tmp_path / 'page.png'}")
    picture = np.asarray(pillow.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert picture.shape[1] == width
    flag = np.abs(picture - np.array([0xB0, 0x20, 0x8F])).sum(2) < 30  # the bars of the chart, and their key
    button = np.abs(picture - np.array([0xC8, 0x55, 0x3D])).sum(2) < 30
    assert flag.sum() > 200 and button.sum() > 1000
    # Nothing runs out of the page on the right.
    assert not (np.abs(picture[:, -4:] - picture[0, 0]).sum(2) > 30).any()
