"""What a rule of the audit says about itself, wherever it is used."""

from __future__ import annotations

from dataclasses import dataclass

from .finding import Finding, NotTried, Severity

__all__ = ["Rule"]


@dataclass(frozen=True)
class Rule:
    """One numbered rule that runs the model or reads its file.

    Attributes:
        check: the part of the audit.
        code: AUD2xx behavior, AUD3xx provenance; it never changes its meaning.
        title: a few words that end "there is ...".
        about: what ordinary models show, and what a planted backdoor shows.
    """

    check: str
    code: str
    title: str
    about: str

    def finding(
        self, severity: Severity, where: str, why: str, nodes: tuple[str, ...] = (), remedy: str = ""
    ) -> Finding:
        return Finding(self.check, self.code, severity, where, why, nodes, remedy)

    def not_tried(self, why: str) -> NotTried:
        return NotTried(f"{self.check}: {self.code} {self.title}", why)
