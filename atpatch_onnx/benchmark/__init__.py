"""The price of a patch: latency pair by pair, session load time, peak memory, size on disk."""

from __future__ import annotations

from .paired_latency import Latency, Request, Spread, paired_latency, time_pairs

__all__ = ["Latency", "Request", "Spread", "paired_latency", "time_pairs"]
