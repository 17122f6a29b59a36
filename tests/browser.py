"""A page in a real browser: chromium without a window, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["needs_browser", "tile_rows", "width_of"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")


def width_of(page: Path, folder: Path, window: int) -> int:
    """Pixels that the page takes in a window of this width; wide tables scroll in a box of their own."""
    return int(_measured("'width ' + document.documentElement.scrollWidth", page, folder, window))


def tile_rows(page: Path, folder: Path, window: int) -> list[int]:
    """How many tiles stand next to each other, row by row, where all rows are as wide as the box; else nothing."""
    script = """(() => {
        const box = document.querySelector('.tiles'), rows = new Map();
        for (const tile of box.children) {
            const place = tile.getBoundingClientRect();
            if (tile.scrollWidth > tile.clientWidth) return 'width ';
            rows.set(place.top, [...(rows.get(place.top) || []), place.width]);
        }
        const inner = box.clientWidth;
        const full = [...rows.values()].every(row => Math.abs(row.reduce((a, b) => a + b + 1) - inner) < 2);
        return 'width ' + (full ? [...rows.values()].map(row => row.length).join(' ') : '');
    })()"""
    return [int(count) for count in _measured(script, page, folder, window).split()]


def _measured(script: str, page: Path, folder: Path, window: int) -> str:
    """What follows "width " in the result of a script in the page."""
    probe = folder / "probe.html"
    script = f"<script>document.title = {script}</script></body>"
    probe.write_text(page.read_text("utf-8").replace("</body>", script), "utf-8")
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={window},900", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>width ([\d ]*)</title>", done.stdout)
    assert found is not None, done.stdout[:500]
    return found[1]
