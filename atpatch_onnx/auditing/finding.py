"""What a check of an audit says: findings, and what was not tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx

__all__ = ["Checked", "Finding", "NotTried", "Severity", "label"]

Severity = Literal["note", "warning", "error"]
"""An error makes the verdict "backdoored", a warning "suspicious"; a note leaves it as it is."""


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found.

    Attributes:
        check: the part of the audit, such as "graph logic".
        code: of the rule: AUD1xx graph logic, AUD2xx behavior, AUD3xx provenance.
        where: the place, for people: a node, a function, a metadata key.
        why: one sentence that says what is there and why no ordinary exporter writes it.
        nodes: the nodes concerned, as `subgraph path/node name` (the output's name where a node is unnamed), so that
            they can be drawn or taken out.
        remedy: what to do about it; "" where there is nothing to do.
    """

    check: str
    code: str
    severity: Severity
    where: str
    why: str
    nodes: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class NotTried:
    """A check that could not be made, and why. What is not known is not clean."""

    check: str
    why: str


@dataclass(frozen=True)
class Checked:
    """All that one part of the audit says."""

    findings: tuple[Finding, ...] = ()
    not_tried: tuple[NotTried, ...] = ()


def label(node: onnx.NodeProto) -> str:
    """What a finding calls a node."""
    return str(node.name or next((name for name in node.output if name), node.op_type))
