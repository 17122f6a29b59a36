"""All rules of an audit, by code: for SARIF, the page and the documentation."""

from __future__ import annotations

from dataclasses import dataclass

from .behavior import RULES as BEHAVIOR
from .graph_logic import RULES as GRAPH_LOGIC
from .provenance import RULES as PROVENANCE

__all__ = ["RULES", "About"]


@dataclass(frozen=True)
class About:
    """What a rule says of itself; see `graph_logic.rule.Rule` and `rule.Rule`."""

    check: str
    code: str
    title: str
    about: str


RULES: dict[str, About] = {
    one.code: one
    for one in (
        *(About("graph logic", rule.code, rule.title, rule.about) for rule in GRAPH_LOGIC),
        *(About(rule.check, rule.code, rule.title, rule.about) for rule in (*BEHAVIOR, *PROVENANCE)),
    )
}
