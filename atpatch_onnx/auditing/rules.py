"""All rules of an audit, by code: for SARIF, the page and the documentation."""

from __future__ import annotations

from .behavior import RULES as BEHAVIOR
from .graph_logic import RULES as GRAPH_LOGIC, Rule as GraphRule
from .provenance import RULES as PROVENANCE
from .rule import Rule

__all__ = ["RULES"]

_ALL: tuple[GraphRule | Rule, ...] = (*GRAPH_LOGIC, *BEHAVIOR, *PROVENANCE)

RULES = {one.code: one for one in _ALL}
