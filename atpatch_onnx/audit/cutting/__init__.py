"""Takes planted nodes out of a graph, and proves by running both graphs that nothing else changes (`audit --cut`)."""

from __future__ import annotations

from .cut import cut_out

__all__ = ["cut_out"]
