"""Models, data and session of a comparison in words and numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from rewriters.editing.patcher import is_patched, stamp
from rewriters.editing.telemetry import LENGTHS
from rewriters.model import io as model_io
from rewriters.model.forms import Loaded

from ..inference.datasets import DataSet
from ..inference.single_scores import Threshold
from ..inspection.inspector import count_nodes
from .graph_runs import Graph
from .options import CompareOptions

__all__ = ["describe_setup", "length_warnings"]


def describe_setup(
    loaded: Mapping[str, Loaded], graphs: Sequence[Graph], scores: str | None, options: CompareOptions
) -> dict[str, Any]:
    """`Comparison.setup`."""
    runner = graphs[0].runner
    return {
        "models": {graph.name: _model_facts(loaded[graph.name], graph) for graph in graphs},
        "names": dict(options.names or {}),
        "scores": scores,
        **({"score_threshold": classes.value} if isinstance(classes := graphs[0].classes, Threshold) else {}),
        "providers": list(runner.providers),
        "threads": options.threads,
        "cores": os.cpu_count(),
        "batch": runner.fixed_batch or options.batch,
        "optimisation": "all graph optimizations (ORT_ENABLE_ALL)",
        "versions": {name: version(name) for name in ("atpatch-onnx", "onnx", "numpy")}
        | {"onnxruntime": _runtime_version()},
    }


def _model_facts(model: Loaded, graph: Graph) -> dict[str, Any]:
    stamped = stamp(model.proto) if is_patched(model.proto) else {}
    return {
        "path": os.fspath(model.source) if isinstance(model.source, (str, os.PathLike)) else None,
        "digest": model_io.digest(model.proto),
        "nodes": count_nodes(model.proto),
        "patched_sites": stamped.get("sites", "").split(),
        "detector": stamped.get("detector"),
        "passes": stamped.get("passes"),
        "flags": _flags_from(graph, bool(stamped)),
    }


def _flags_from(graph: Graph, patched: bool) -> str:
    if graph.observer is None:
        return f"not known: {graph.untold}" if patched else "none: not patched"
    return "its telemetry" if graph.observer is graph.runner else "a copy of it with telemetry"


def length_warnings(patched: Loaded, sets: Mapping[str, DataSet]) -> dict[str, Any]:
    """Rows that are shorter or longer than any that the hotfix has seen, by set; empty where its lengths or the input
    that masks padding are not known.
    """
    stamped = stamp(patched.proto) if is_patched(patched.proto) else {}
    try:
        seen = json.loads(stamped.get(LENGTHS, "{}"))
        shortest, longest, mask = int(seen["shortest"]), int(seen["longest"]), seen["mask"]
    except (KeyError, ValueError, TypeError):
        return {}
    found = {}
    for name, rows in sets.items():
        if mask in rows.inputs and rows.inputs[mask].ndim == 2:
            length = (rows.inputs[mask] != 0).sum(1)
            found[name] = {"k": int(((length < shortest) | (length > longest)).sum()), "n": len(length)}
    return {"shortest": shortest, "longest": longest, "outside": found}


def _runtime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
