"""The site as `make docs` builds it; only where its extra is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from ..documents import ROOT

pytestmark = pytest.mark.slow

pytest.importorskip("mkdocs")


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    settings = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    pages = {page.relative_to(tmp_path): page.read_text("utf-8") for page in tmp_path.rglob("*.html")}
    assert len(pages) > 15
    for name, text in pages.items():
        assert not re.search(r"<!-- (schema|api|commands|error codes|rejection codes|audit rules)\b", text), name
    commands = pages[next(name for name in pages if name.name == "command-line.html")]
    assert commands.count("<h2") > 15 and "--detector" in commands
