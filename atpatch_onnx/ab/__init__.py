"""What a decision log says about original and patched: `analyze_log`,
and `evidence_so_far` and `srm` on counts alone.
"""

from __future__ import annotations

from .analysis import Analysis, analyze_log
from .evidence import Evidence, Srm, evidence_so_far, srm

__all__ = ["Analysis", "Evidence", "Srm", "analyze_log", "evidence_so_far", "srm"]
