"""What a detector reads of a column: the attention that it gets, and how much its token writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rewriters.finding.output_projection import norms_of
from rewriters.plan import ValueNorms

from ..hotfix.evidence import SignalsRead
from ..inference.capture import Capture
from .training import Context

__all__ = ["Signals", "read_signals"]


@dataclass(frozen=True)
class Signals:
    """norms: site id → the norms to read too; unprojected: site id → why only the norm of the value itself is known."""

    norms: Mapping[str, ValueNorms] = field(default_factory=dict)
    unprojected: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> SignalsRead:
        """Plain data for the hotfix."""
        return {"chosen": "both" if self.norms else "attention", "unprojected": dict(self.unprojected)}


def read_signals(context: Context, capture: Capture, *, both: bool) -> Signals:
    """The norms of all sites if `both` signals are to be read; those that the context holds come first."""
    if not both:
        return Signals()
    if context.norms:
        return Signals(context.norms)
    found = norms_of(context.model, capture.sites, context.folder)
    return Signals(
        {name: written.norms for name, written in found.items()},
        {name: written.reason for name, written in found.items() if written.reason},
    )
