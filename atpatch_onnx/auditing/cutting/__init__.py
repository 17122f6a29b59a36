"""Takes planted nodes out of a graph, and proves by running both graphs that nothing else changes (`audit --cut`)."""

from __future__ import annotations

from .cut import check_output, cut_out

__all__ = ["check_output", "cut_out"]
