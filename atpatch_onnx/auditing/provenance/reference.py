"""A model that is trusted, next to the one under audit: whether its weights are the same, and which nodes differ."""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from rewriters.model.external_data import walk_tensors
from rewriters.model.forms import read

from ...inspection.differences import Change, diff
from ...inspection.inspector import original_of
from ..case import Case
from ..finding import Checked, Finding
from ..rule import Rule

__all__ = ["RULES", "check"]

CHECK = "provenance"
WEIGHTS = Rule(
    CHECK,
    "AUD321",
    "weights that are not those of the reference",
    "Weights that were only converted or renamed keep their values. A few changed tensors among many equal ones are"
    " what fine-tuning of a part leaves, and what a backdoor that was trained into a known model leaves.",
)
NODES = Rule(
    CHECK,
    "AUD322",
    "nodes that the reference does not have",
    "Two exports of one model by one program have the same nodes. Nodes that were added to a copy with equal weights"
    " are somebody's edit.",
)
RULES = (WEIGHTS, NODES)
SHOWN = 12


def check(case: Case) -> Checked:
    """Compare with the reference, if there is one; raises what reading it raises."""
    if case.options.reference is None:
        why = "no model to compare with was given; give one that you trust with --reference"
        return Checked(not_tried=(WEIGHTS.not_tried(why),))
    loaded = read(case.options.reference)
    trusted = original_of(loaded)
    found = [*_weights(case, trusted, loaded.folder), *_nodes(case, trusted)]
    return Checked(tuple(found))


def _weights(case: Case, trusted: onnx.ModelProto, folder: Path) -> list[Finding]:
    ours, theirs = _contents(case.proto, case.folder), set(_contents(trusted, folder).values())
    other = [name for name, content in ours.items() if content not in theirs]
    if not other:
        return []
    share = len(other) / len(ours)
    return [
        WEIGHTS.finding(
            "warning",
            ", ".join(other[:3]) + (" …" if len(other) > 3 else ""),
            f"{len(other)} of {len(ours)} weights ({share:.0%}) are not in the reference",
            remedy=f"ask who changed them, or use the reference; atpatch-onnx diff {_reference(case)} {case.name}",
        )
    ]


def _nodes(case: Case, trusted: onnx.ModelProto) -> list[Finding]:
    changes = [change for change in diff(trusted, case.proto).changes if change.what == "node"]
    new = [change for change in changes if change.status != "removed"]
    if not new:
        return []
    counts = {status: sum(change.status == status for change in changes) for status in ("added", "changed", "removed")}
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return [
        NODES.finding(
            "warning",
            ", ".join(change.name for change in new[:3]) + (" …" if len(new) > 3 else ""),
            f"against the reference the graph has these nodes: {said}",
            tuple(_path(change) for change in new[:SHOWN]),
            f"atpatch-onnx diff {_reference(case)} {case.name}",
        )
    ]


def _reference(case: Case) -> str:
    given = case.options.reference
    return shlex.quote(os.fspath(given)) if isinstance(given, (str, os.PathLike)) else "REFERENCE"


def _path(change: Change) -> str:
    return "/".join(filter(None, (change.body, change.name)))


def _contents(model: onnx.ModelProto, folder: Path) -> dict[str, str]:
    """Tensor → digest of type, shape and all its bytes. Single numbers are no weights."""
    return {
        tensor.name: _digest(tensor, folder)
        for tensor in walk_tensors(model)
        if tensor.name and len(tensor.dims) and max(tensor.dims) > 1 and tensor.data_type != TensorProto.STRING
    }


def _digest(tensor: TensorProto, folder: Path) -> str:
    hasher = hashlib.sha256(repr((tensor.data_type, list(tensor.dims))).encode())
    hasher.update(numpy_helper.to_array(tensor, str(folder)).tobytes())
    return hasher.hexdigest()
