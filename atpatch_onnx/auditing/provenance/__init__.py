"""What a file says of its origin: digests, producer, data outside it, a patch of ours, a reference to compare with."""

from __future__ import annotations

from typing import Any

from ..case import Case
from ..finding import Checked
from . import origin, reference, stamp

__all__ = ["RULES", "check_provenance", "facts_of"]

RULES = (*origin.RULES, *stamp.RULES, *reference.RULES)


def check_provenance(case: Case) -> Checked:
    """Apply every rule about the file; the model is not run."""
    said = [check(case) for check in (origin.check, stamp.check, reference.check)]
    return Checked(
        tuple(finding for one in said for finding in one.findings),
        tuple(left for one in said for left in one.not_tried),
    )


def facts_of(case: Case) -> dict[str, Any]:
    """The file in figures, for the report."""
    return origin.facts(case)
