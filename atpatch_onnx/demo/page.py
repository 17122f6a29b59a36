"""The demo's page: the page of its comparison, with what is known of this victim (extra `report`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..comparison.page import page_context
from ..pages import environment

if TYPE_CHECKING:
    from .run import Demo

__all__ = ["render_demo"]


def render_demo(demo: Demo) -> str:
    """The page as HTML.

    Raises:
        AtpatchError: ATP051 without jinja2 or matplotlib.
    """
    return environment().get_template("demo/page.html.j2").render(page_context(demo.comparison), demo=demo)
