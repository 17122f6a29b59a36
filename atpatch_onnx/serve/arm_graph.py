"""The graph that an arm runs, with what is known of it before onnxruntime loads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from rewriters.editing.observe import observe
from rewriters.editing.patcher import is_patched
from rewriters.model import io as model_io

from ..paths import sha256_of

__all__ = ["ArmGraph", "read_graph"]


@dataclass(frozen=True, eq=False)
class ArmGraph:
    """What an arm runs.

    Attributes:
        path: what the log and the page name.
        sha256: of the file at that path.
        model: the graph, with its flags as outputs where it reports them; a path is loaded by onnxruntime itself, which
            does not stop other threads meanwhile.
        folder: where its external data lies.
        sites: ids of the sites whose flags the graph reports.
        untold: why it does not report flags; "" where it does.
        stamped: whether it has the stamp of a patch.
    """

    path: Path
    sha256: str
    model: onnx.ModelProto | Path
    folder: Path
    sites: tuple[str, ...]
    untold: str
    stamped: bool


def read_graph(path: Path) -> ArmGraph:
    """The graph in a model file.

    Raises:
        AtpatchError: ATP001-ATP005 and ATP020.
    """
    proto = model_io.load(path)
    # A patched file that some tool rewrote still runs; it only does not report what it flags.
    seen = observe(proto)
    return ArmGraph(
        path,
        sha256_of(path),
        seen.model,
        path.parent,
        seen.sites,
        seen.reason,
        is_patched(proto),
    )
