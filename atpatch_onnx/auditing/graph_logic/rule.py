"""A rule: its code and title, a paragraph about it, and the function that looks at a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..finding import Finding, NotTried, Severity
from .material import Material

__all__ = ["CHECK", "Rule"]

CHECK = "graph logic"


@dataclass(frozen=True)
class Rule:
    """One numbered rule.

    Attributes:
        check: the part of the audit.
        code: AUD1xx; it never changes its meaning.
        title: a few words that end "there is ...".
        severity: of its findings at most; some rules say less where less is proven.
        about: what ordinary exporters write, and what a plant looks like.
        look: yields a finding for each case, and a `NotTried` for each thing that it cannot judge.
    """

    check: ClassVar[str] = CHECK
    code: str
    title: str
    severity: Severity
    about: str
    look: Callable[[Rule, Material], Iterator[Finding | NotTried]]

    def finding(
        self, where: str, why: str, nodes: tuple[str, ...] = (), remedy: str = "", severity: Severity | None = None
    ) -> Finding:
        return Finding(CHECK, self.code, severity or self.severity, where, why, nodes, remedy)

    def not_tried(self, why: str) -> NotTried:
        return NotTried(f"{CHECK}: {self.code} {self.title}", why)
