"""What the project's HTML pages have in common: one style, one way to render, one way to write (extra `report`)."""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rewriters.model.atomic import write_file
from rewriters.model.regular_files import check_destination

from ..errors import EXTRA_MISSING, NOT_WRITABLE

if TYPE_CHECKING:
    import jinja2

__all__ = ["environment", "save_page"]

KEPT = "\n\t\u00ad\u200b\u200c\u200d"
"""Control characters that pages may hold: line ends, places to break a word, joiners of letters."""


@cache
def environment() -> jinja2.Environment:
    """Templates by their path in the package; those of pages extend `pages/base.html.j2`.

    Raises:
        AtpatchError: ATP051 without jinja2.
    """
    try:
        import jinja2
    except ImportError as error:
        raise EXTRA_MISSING("the page needs jinja2", "pip install 'atpatch-onnx[report]'") from error
    loader = jinja2.PackageLoader(__package__.partition(".")[0], "")
    return jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )


def save_page(html: str, path: Path) -> Path:
    """Write a page, making its folder, and return the path.

    Raises:
        AtpatchError: ATP019 where it cannot be written.
    """
    check_destination(path, make_folder=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NOT_WRITABLE(f"{path} cannot be written: {error.strerror or error}") from error
    write_file(path, _visible(html).encode())
    return path


def _visible(html: str) -> str:
    """Without control characters, which names from files may have: marks of the direction of writing (U+202E) would
    show a name in another order.
    """
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) in ("Cc", "Cf") and char not in KEPT else char
        for char in html
    )
