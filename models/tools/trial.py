"""One row of cells: a model, a form of the patch, and every tool.

A tool's result is right when onnxruntime loads it and runs it with the inputs of the original, and

1. with a patch that flags nothing, it gives bit for bit what the tool's result on the original gives. Tools that fuse nodes fuse others
   beside a patch, and half precision makes onnxruntime round at other places on the CPU, which has no such arithmetic: there the two differ
   by no more than the tool's own error, which is what it does to the original on the same rows;
2. with a patch that fires, it gives what the patched graph gave before, to `TOLERANCE` of the largest output, or for tools to half
   precision and integers `MARGIN` times the tool's own error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.patching import patch_model

from .apart import Arrays, Outcome, Workshop, largest, run
from .toolbox import Tool

__all__ = ["VARIANTS", "Cell", "Form", "Subject", "try_tools"]

TOLERANCE = 1e-5
MARGIN = 5.0
"""A flagged row goes through other numbers than the original's, which rounding meets elsewhere; measured: up to 4 times."""

VARIANTS: Mapping[str, Mapping[str, Any]] = {"default": {}, "portable": {"portable": True}}
"""What is asked of `patch` besides the form."""

_STEPS = 48


@dataclass(frozen=True)
class Form:
    """Options of `patch_model`; `reach` is where thresholds are looked for, `silent` one that no score is above."""

    name: str
    options: Mapping[str, Any]
    reach: tuple[float, float]
    silent: float


@dataclass(frozen=True)
class Subject:
    """A model with rows to feed it."""

    name: str
    model: Path
    feeds: Arrays
    forms: tuple[Form, ...]


@dataclass(frozen=True)
class Cell:
    """What became of one patched graph in one tool.

    Attributes:
        status: "ok", "differs", "fails", or "no original" where the tool's result on the unpatched model does not run.
        silent, firing: largest differences (rules 1 and 2), absolute; None without outputs.
        own: the tool's own error, absolute.
        message: of the tool or of onnxruntime.
    """

    subject: str
    form: str
    variant: str
    tool: str
    status: str
    silent: float | None = None
    firing: float | None = None
    own: float | None = None
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def try_tools(subject: Subject, tools: Sequence[Tool], folder: Path, variants: Sequence[str] = tuple(VARIANTS)) -> Iterator[Cell]:
    """The cells of a model, tool by tool; `folder` holds the graphs meanwhile.

    Raises:
        AssertionError: a patch that is to be silent is not, or one that is to fire does not: the trial would show nothing.
    """
    with Workshop() as workshop:
        yield from _try_tools(workshop, subject, tools, folder, variants)


def _try_tools(workshop: Workshop, subject: Subject, tools: Sequence[Tool], folder: Path, variants: Sequence[str]) -> Iterator[Cell]:
    def converted(tool: Tool, source: Path) -> Outcome:
        return workshop.convert_and_run(tool, source, folder / f"converted{tool.suffix}", subject.feeds)

    original = run(subject.model, subject.feeds)
    made = {tool.name: converted(tool, subject.model) for tool in tools}
    for form in subject.forms:
        threshold = firing_threshold(subject, form, folder)
        for variant in variants:
            silent, firing = folder / "silent.onnx", folder / "firing.onnx"
            for path, bar in ((silent, form.silent), (firing, threshold)):
                patch_model(subject.model, path, threshold=bar, **form.options, **VARIANTS[variant])
            fired = run(firing, subject.feeds)
            assert largest(run(silent, subject.feeds), original) == 0 and largest(fired, original) > 100 * TOLERANCE
            for tool in tools:
                before = made[tool.name]
                cell = Cell(subject.name, form.name, variant, tool.name, "no original", message=before.message)
                if before.outputs is None:
                    yield cell
                    continue
                outcomes = [converted(tool, path) for path in (silent, firing)]
                yield _judged(cell, tool, before.outputs, original, outcomes, fired)


def _judged(
    cell: Cell,
    tool: Tool,
    before: Sequence[NDArray[Any]],
    original: Sequence[NDArray[Any]],
    outcomes: Sequence[Outcome],
    fired: Sequence[NDArray[Any]],
) -> Cell:
    quiet, loud = outcomes
    own = largest(before, original)
    if quiet.outputs is None or loud.outputs is None:
        return _like(cell, "fails", own=own, message=quiet.message or loud.message)
    silent, firing = largest(quiet.outputs, before), largest(loud.outputs, fired)
    same = all(one.tobytes() == two.tobytes() for one, two in zip(quiet.outputs, before, strict=True))
    bound = TOLERANCE * max(1.0, *(float(np.abs(array).max(initial=0.0)) for array in fired))
    bound = max(bound, MARGIN * own) if tool.changes in ("precision", "integers") else bound
    right = (same or (tool.changes in ("precision", "fusions") and silent <= own)) and firing <= bound
    return _like(cell, "ok" if right else "differs", silent=silent, firing=firing, own=own)


def _like(cell: Cell, status: str, **found: Any) -> Cell:
    return Cell(cell.subject, cell.form, cell.variant, cell.tool, status, **{"message": "", **found})


def firing_threshold(subject: Subject, form: Form, folder: Path) -> float:
    """A threshold under which some rows are flagged and not all, as far as may be from one under which other columns are.

    A tool that rounds moves scores a little; near a score a flag would come and go.
    """
    path = folder / "told.onnx"
    patch_model(subject.model, path, telemetry=True, **form.options)
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    live = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    masks = [value.name for value in live.get_outputs() if value.name.startswith("atpatch_")]
    grid = np.geomspace(*form.reach, _STEPS)
    seen = []
    for threshold in grid:
        flags = live.run(masks, {**subject.feeds, "atpatch_threshold": np.array(threshold, np.float32)})
        rows = dict(zip(masks, flags, strict=True))["atpatch_flagged"].any(1)
        seen.append(b"".join(mask.tobytes() for mask in flags) if rows.any() and not rows.all() else None)
    first = best = (0, 0)
    for index in range(1, len(grid) + 1):
        if index == len(grid) or seen[index] != seen[first[0]]:
            first = (first[0], index)
            if seen[first[0]] is not None and first[1] - first[0] > best[1] - best[0]:
                best = first
            first = (index, index)
    assert best[1] > best[0], f"{subject.name}, {form.name}: no threshold flags some rows and not all"
    return float(grid[(best[0] + best[1] - 1) // 2])
