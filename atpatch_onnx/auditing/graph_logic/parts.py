"""Parts of a model that no exporter leaves in it, and operators whose code is elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from rewriters.model.bodies import walk_bodies

from ..finding import Finding, NotTried
from .material import Material
from .rule import Rule

__all__ = ["RULES"]


def _uncalled(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    called = {(node.domain, node.op_type) for _, body in walk_bodies(material.model) for node in body.node}
    for function in material.model.functions:
        if (function.domain, function.name) not in called:
            yield rule.finding(
                f"function {function.name}", "nothing calls this function: it can be a part that is kept ready"
            )


def _foreign(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    for name, step in material.taint.foreign.items():
        yield rule.finding(
            step.name,
            f"the operator {name} is neither standard nor onnxruntime's own, so what it does is not in this file",
            (step.name,),
            "ask its author for the operator's code, or for an export without it",
        )
        yield rule.not_tried(f"what {name} does with its inputs is not known")


RULES = (
    Rule(
        "AUD131",
        "a function that nothing calls",
        "note",
        "Exporters write a local function for each module and call it, or inline it and drop it. Tools that fuse calls"
        " sometimes leave a function behind. A function that nothing calls does nothing, so this is a note.",
        _uncalled,
    ),
    Rule(
        "AUD132",
        "an operator of a foreign domain",
        "warning",
        "Exporters write operators of ONNX, and optimizers those of onnxruntime; other domains are local functions. An"
        " operator of any other domain needs a library that is loaded next to the model and can do anything.",
        _foreign,
    ),
)
