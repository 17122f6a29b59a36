"""Graphs of a decoder victim: our export with caches, and the folders of onnxruntime-genai's builder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rewriters import find_sites, patch
from rewriters.model import io as model_io
from rewriters.plan import PatchPlan

from ...victims import Victim, cache
from ..commands import Commands
from .loops import GenaiLoop, KvLoop, Loop

__all__ = ["GRAPHS", "graph_file", "loop_on", "original", "patched", "work"]

GRAPHS = ("cached", "genai-fp32", "genai-int4")


def original(victim: Victim, graph: str, commands: Commands) -> Path:
    """The file, or the folder of genai; made where it is not there."""
    path = victim.file("cached.onnx" if graph == "cached" else graph)
    if not path.exists():
        _MAKERS[graph](victim.file("model"), path, commands)
    return path


def graph_file(path: Path) -> Path:
    """The file itself, or the graph in a folder of genai."""
    return path / "model.onnx" if path.is_dir() else path


def patched(before: Path, after: Path, plan: Callable[[Sequence[str]], PatchPlan]) -> Path:
    """A file patched by a plan of the ids of its sites, without a hotfix."""
    model = model_io.load(before)
    sites, _ = find_sites(model)
    model_io.save(patch(model, plan([site.id for site in sites]), sites), after)
    return after


def loop_on(path: Path) -> Loop:
    """The loop for a file or a folder."""
    return GenaiLoop(path) if path.is_dir() else KvLoop(path)


def work(victim: Victim) -> Path:
    """Where hotfixes, patched graphs and answers of a victim are kept."""
    folder = cache() / "decoders" / victim.folder.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _export(model: Path, path: Path, commands: Commands) -> None:
    # Thirty layers of float32 in another order than torch's: 5e-4 apart.
    commands("export", model, "--kv-cache", "--tolerance", 5e-3, "-o", path)


def _genai(precision: str) -> Callable[[Path, Path, Commands], None]:
    def build(model: Path, path: Path, commands: Commands) -> None:
        draft = path.with_name(path.name + ".tmp")
        shutil.rmtree(draft, ignore_errors=True)
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(model), "-o", str(draft)]
        subprocess.run([*command, "-p", precision, "-e", "cpu", "-c", str(draft / "cache")], check=True)
        shutil.rmtree(draft / "cache", ignore_errors=True)
        draft.rename(path)

    return build


_MAKERS = {"cached": _export, "genai-fp32": _genai("fp32"), "genai-int4": _genai("int4")}
