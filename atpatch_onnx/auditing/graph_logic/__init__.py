"""Looks for backdoors that are planted in the graph itself: ordinary operators that detect a trigger and act on it."""

from __future__ import annotations

from pathlib import Path

import onnx

from ..finding import Checked, Finding, NotTried
from . import bypasses, gates, own_patches, parts, strings, tokens, weights
from .flow import TooDeep, flatten
from .material import prepare
from .rule import CHECK, Rule

__all__ = ["CHECK", "RULES", "Rule", "check_graph"]

RULES: tuple[Rule, ...] = (
    *gates.RULES,
    *bypasses.RULES,
    *tokens.RULES,
    *weights.RULES,
    *parts.RULES,
    *strings.RULES,
    *own_patches.RULES,
)


def check_graph(model: onnx.ModelProto, path: Path | None) -> Checked:
    """Apply every rule to a model. It is not changed and not run.

    Args:
        model: as `rewriters.model.io.load` reads it.
        path: its file, for external data; None for a model in memory.
    """
    try:
        material = prepare(model, path, flatten(model))
    except TooDeep as error:
        return Checked((), (NotTried(CHECK, f"the graph cannot be followed: {error}"),))
    said = [one for rule in RULES for one in rule.look(rule, material)]
    return Checked(
        tuple(one for one in said if isinstance(one, Finding)), tuple(one for one in said if isinstance(one, NotTried))
    )
