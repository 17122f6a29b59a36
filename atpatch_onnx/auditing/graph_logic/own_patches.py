"""Patches of this project, and what only carries their names.

A patch is known by its stamp: taking it out must give the model of which the stamp has the digest. That exempts little,
since anybody can make a stamp: inside the network its nodes may leave special tokens out (`gates`), and its telemetry
is no output of the model. A constant that is put in because of the input is found in a patch as anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from rewriters import names
from rewriters.editing import stamp
from rewriters.model.bodies import walk_bodies

from ..finding import Finding, NotTried
from .material import Material
from .rule import Rule

__all__ = ["RULES"]


def _named(model: onnx.ModelProto) -> list[str]:
    found = [value.name for value in (*model.graph.input, *model.graph.output) if names.is_ours(value.name)]
    for _, body in walk_bodies(model):
        found += [
            node.name or node.output[0] for node in body.node if any(map(names.is_inserted, (node.name, *node.output)))
        ]
    return found


def _stamped(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    facts, carried = stamp.read(material.model), _named(material.model)
    if not facts and not carried:
        return
    if not facts:
        yield rule.finding(
            carried[0], f"{len(carried)} names are those of an atpatch-onnx patch, but the model has no stamp of one",
            tuple(carried[:40]),
        )  # fmt: skip
        return
    if material.patch:
        yield rule.not_tried(f"whether the patch is one of atpatch-onnx: {material.patch}")


RULES = (
    Rule(
        "AUD151",
        "something that only carries the names of a patch",
        "warning",
        "A model that atpatch-onnx patched has a stamp with the digest of the original, and taking the patch out gives"
        " that original. A plant may call its nodes atpatch/… to pass for a patch.",
        _stamped,
    ),
)
