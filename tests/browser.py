"""A page in a real browser: chromium without a window, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["needs_browser", "width_of"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")


def width_of(page: Path, folder: Path, window: int) -> int:
    """Pixels that the page takes in a window of this width; wide tables scroll in a box of their own."""
    probe = folder / "probe.html"
    script = "<script>document.title = 'width ' + document.documentElement.scrollWidth</script></body>"
    probe.write_text(page.read_text("utf-8").replace("</body>", script), "utf-8")
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={window},900", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>width (\d+)</title>", done.stdout)
    assert found is not None, done.stdout[:500]
    return int(found[1])
