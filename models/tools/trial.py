"""One row of cells: a model, a form of the patch, and every tool.

A tool's own error is the largest absolute difference that it makes to outputs, over all rows of the same data: those of
the original, and for rule 3 those of the same patched graph where the tool is told to leave the patch's own nodes as
they are, whichever is larger. (What comes after a patch is the model's own, but the rows that it sees are not: some
models round more on them.) A tool's result on a patched graph is right when onnxruntime loads it and runs it with the
inputs of the original, and

1. with a patch that flags nothing, it gives bit for bit what the tool's result on the original gives. Tools that fuse
   nodes fuse others beside a patch, and half precision makes onnxruntime round at other places on the CPU, which has no
   such arithmetic: there both are off by the tool's own error, so they differ by no more than `MARGIN` times that;
2. with a patch that fires, it gives what the patched graph gave before, to `TOLERANCE` of the largest output;
3. lossy tools, to half precision or to integers, move scores too, so flags may cross the threshold. In place of rule 2,
   each row whose flags are the same before and after the tool, at all columns of all sites, gives what the patched
   graph gave to `MARGIN` times the tool's own error. Rows whose flags crossed are counted. Such a row is "far" where
   the same columns are flagged at thresholds higher and lower by `MARGIN` times the tool's own error, as a share of the
   largest output; no more than `FAR` of all rows may be. To show its flags, the patch has telemetry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from atpatch_onnx.patching.apply import patch_model
from rewriters.names import is_inserted, second_run

from .apart import Arrays, Outcome, Workshop, largest, run
from .flags import Watched, by_row
from .toolbox import Tool

__all__ = ["VARIANTS", "Cell", "Form", "Subject", "try_tools"]

TOLERANCE = 1e-5
MARGIN = 2.0
"""A flagged row goes through other numbers than the original's, which rounding meets elsewhere."""
FAR = 0.25

VARIANTS: Mapping[str, Mapping[str, Any]] = {"default": {}, "portable": {"portable": True}}
"""What is asked of `patch` besides the form."""


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
        silent, firing: largest differences (rules 1 to 3), absolute; None without outputs. `firing`: of rows whose
            flags are the same.
        own: the tool's own error on the original, absolute.
        spared: the tool's own error on the patched graph that fires (rule 3); None where it cannot leave the patch's
            nodes out.
        rows, crossed, far: of lossy tools (rule 3), numbers of rows: all, those whose flags crossed, and the far ones
            of these.
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
    spared: float | None = None
    rows: int | None = None
    crossed: int | None = None
    far: int | None = None
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def try_tools(
    subject: Subject, tools: Sequence[Tool], folder: Path, variants: Sequence[str] = tuple(VARIANTS)
) -> Iterator[Cell]:
    """The cells of a model, tool by tool; `folder` holds the graphs meanwhile.

    Raises:
        AssertionError: a patch that is to be silent is not, or one that is to fire does not: the trial would show
            nothing.
    """
    with Workshop() as workshop:
        yield from _try_tools(workshop, subject, tools, folder, variants)


def _try_tools(
    workshop: Workshop, subject: Subject, tools: Sequence[Tool], folder: Path, variants: Sequence[str]
) -> Iterator[Cell]:
    def converted(tool: Tool, source: Path, spared: Sequence[str] | None = None) -> Outcome:
        return workshop.convert_and_run(tool, source, folder / f"converted{tool.suffix}", subject.feeds, spared)

    original = run(subject.model, subject.feeds)
    made = {tool.name: converted(tool, subject.model) for tool in tools}
    for form in subject.forms:
        watched = Watched(subject, form, folder)
        threshold = watched.threshold()
        for variant in variants:
            silent, firing, shown = (folder / f"{name}.onnx" for name in ("silent", "firing", "shown"))
            for path, bar, telemetry in (
                (silent, form.silent, False),
                (firing, threshold, False),
                (shown, threshold, True),
            ):
                patch_model(
                    subject.model, path, threshold=bar, telemetry=telemetry, **form.options, **VARIANTS[variant]
                )
            fired = {path: run(path, subject.feeds) for path in (firing, shown)}
            assert (
                largest(run(silent, subject.feeds), original) == 0
                and largest(fired[firing], original) > 100 * TOLERANCE
            )
            for tool in tools:
                before = made[tool.name]
                cell = Cell(subject.name, form.name, variant, tool.name, "no original", message=before.message)
                if before.outputs is None:
                    yield cell
                    continue
                loud = shown if tool.lossy else firing
                outcomes = [converted(tool, path) for path in (silent, loud)]
                control = converted(tool, shown, _nodes_of_patch(shown)).outputs if tool.spare else None
                yield _judged(
                    cell, tool, _Trial(before.outputs, original, fired[loud], control, watched, threshold), *outcomes
                )


@dataclass(frozen=True)
class _Trial:
    """Outputs of the original after the tool and before it; of the patch that fires before it, and after it with the
    patch's nodes left out; the threshold of that patch.
    """

    converted: Sequence[NDArray[Any]]
    original: Sequence[NDArray[Any]]
    fired: Sequence[NDArray[Any]]
    control: Sequence[NDArray[Any]] | None
    watched: Watched
    threshold: float


def _judged(cell: Cell, tool: Tool, trial: _Trial, quiet: Outcome, loud: Outcome) -> Cell:
    own = largest(trial.converted, trial.original)
    if quiet.outputs is None or loud.outputs is None:
        return replace(cell, status="fails", own=own, message=quiet.message or loud.message)
    silent = largest(quiet.outputs, trial.converted)
    same = all(one.tobytes() == two.tobytes() for one, two in zip(quiet.outputs, trial.converted, strict=True))
    still = same or (tool.changes in ("precision", "fusions") and silent <= MARGIN * own)
    cell = _of_rows(cell, trial, loud.outputs, own) if tool.lossy else _of_all(cell, trial, loud.outputs)
    return replace(cell, status=cell.status if still else "differs", silent=silent, own=own, message="")


def _of_all(cell: Cell, trial: _Trial, loud: Sequence[NDArray[Any]]) -> Cell:
    """Rule 2."""
    firing = largest(loud, trial.fired)
    return replace(
        cell, status="ok" if firing <= TOLERANCE * max(1.0, _peak(trial.fired)) else "differs", firing=firing
    )


def _of_rows(cell: Cell, trial: _Trial, loud: Sequence[NDArray[Any]], own: float) -> Cell:
    """Rule 3."""
    crossed, firing = _apart(trial, loud)
    far = crossed & ~trial.watched.near(trial.threshold, MARGIN * own / _peak(trial.original))
    spared = None if trial.control is None else _apart(trial, trial.control)[1]
    right = firing <= MARGIN * max(own, spared or 0.0) and far.mean() <= FAR and not crossed.all()
    counts = {"rows": len(crossed), "crossed": int(crossed.sum()), "far": int(far.sum())}
    return replace(cell, status="ok" if right else "differs", firing=firing, spared=spared, **counts)


def _apart(trial: _Trial, loud: Sequence[NDArray[Any]]) -> tuple[NDArray[np.bool_], float]:
    """(B,): rows whose flags are others than before the tool; and the largest difference of the rest."""
    outputs = len(trial.original)
    crossed: NDArray[np.bool_] = (by_row(loud[outputs:]) != by_row(trial.fired[outputs:])).any(1)
    return crossed, largest(*([array[~crossed] for array in arrays[:outputs]] for arrays in (loud, trial.fired)))


def _nodes_of_patch(path: Path) -> list[str]:
    """Names of the nodes that are not the model's own, in its first run or its second."""
    graph = onnx.load(path, load_external_data=False).graph
    return [node.name for node in graph.node if is_inserted(node.name.removeprefix(second_run("")))]


def _peak(outputs: Sequence[NDArray[Any]]) -> float:
    return max(float(np.abs(array).max(initial=0.0)) for array in outputs)
