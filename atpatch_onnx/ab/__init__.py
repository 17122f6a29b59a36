"""What a decision log says about original and patched: `analyze_log`,
and `evidence_so_far` and `srm`, which need only counts.
"""

from __future__ import annotations

from ..statistics.sequential import Evidence, Srm, evidence_so_far, srm
from .analysis import Analysis, analyze_log

__all__ = ["Analysis", "Evidence", "Srm", "analyze_log", "evidence_so_far", "srm"]
