"""Draws the chain of nodes that the finder saw: boxes from top to bottom, side inputs on their right."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from rewriters.traces import End, Side, Step, Trace

from ..inspection.explanation import Explanation, edge_text, end_text, facts_of
from .rendering import printable, table

__all__ = ["picture", "show"]

_UNATTENDED_WIDTH = 160
_INDENT = "  "
_LEAST_WIDTH = 10  # of a box, so that short and long operator names are aligned
_MOST_ENDS = 8
_LONGEST_NAME = 56

_PLAIN, _THICK, _DOUBLE = "┌─┐│└┘┴┬", "┏━┓┃┗┛┷┯", "╔═╗║╚╝╧╤"
_FRAMES = {"softmax": _THICK, "product": _DOUBLE, "fused": _DOUBLE}
_PARTS = {"scores": "scores", "softmax": "normalizes", "product": "map · values", "fused": "in one operator"}
_COLOURS = {"scores": "cyan", "softmax": "bold yellow", "product": "bold green", "fused": "bold green"}
_ASCII = str.maketrans("┌┐└┘┴┬┏┓┗┛┷┯╔╗╚╝╧╤├─│━┃═║▼◀▶✗·…→⟵", "+++++++++++++++++++-|-|=|v<>x..><")


def show(explanation: Explanation) -> None:
    """Print facts and picture on stderr."""
    trace = explanation.trace
    title = trace.name if trace.rejection is None else f"{trace.name}: no site, {trace.rejection.code}"
    table(title, ("", ""), facts_of(explanation))
    console = Console(
        stderr=True,
        markup=False,
        highlight=False,
        emoji=False,
        width=None if sys.stderr.isatty() else _UNATTENDED_WIDTH,
    )
    plain = "utf" not in (console.encoding or "").lower()
    for line in picture(trace):
        console.print(
            Text(line.plain.translate(_ASCII)) if plain else line, no_wrap=True, overflow="ellipsis", crop=True
        )


def picture(trace: Trace) -> list[Text]:
    """The lines of the picture."""
    return _Chain(trace).lines()


class _Chain:
    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        backward = [end for end in trace.ends if end.direction == "backward"]
        self._ahead = backward[0] if backward else None
        self._steps = (*(self._ahead.steps if self._ahead else ()), *trace.steps)
        names = [step.op_type for step in self._steps] + ([self._ahead.op_type] if self._ahead else [])
        self._width = max([_LEAST_WIDTH, *(len(name) + 2 for name in names)])
        self._roles = max((len(side.role) for step in self._steps for side in step.sides), default=0)
        self._column = " " * (len(_INDENT) + self._width // 2) + " "

    def lines(self) -> list[Text]:
        return [
            *self._source(),
            *(line for index in range(len(self._steps)) for line in self._step(index)),
            *self._ends(),
            *self._lowered(),
        ]

    def _source(self) -> Iterator[Text]:
        """What enters above the first box: nothing where the chain begins at the score product."""
        if self._ahead is not None:
            yield from self._box(
                self._ahead.op_type or "outside", _PLAIN, "red", False, True, [self._reason(self._ahead)]
            )
            yield Text(self._column + "│")
        elif self._trace.source is not None:
            edge = self._trace.source
            yield Text(f"{self._column}│ {edge_text(edge)} from {edge.origin} {_short(edge.name)}", "dim")

    def _step(self, index: int) -> Iterator[Text]:
        step = self._steps[index]
        notes = []
        if step.part in _PARTS:
            words = self._trace.making if step.part == "softmax" else _PARTS[step.part]
            notes.append(Text.assemble((words, _COLOURS[step.part]), (f"  {_short(step.node)}", "dim")))
        if step.part in ("product", "fused") and self._trace.site is not None:
            notes[0].append("  ◀━━ the patch takes its place", "bold magenta")
        notes += [self._side(side) for side in step.sides] or ([] if notes else [Text(_short(step.node), "dim")])
        if step.body != self._trace.body:
            notes.append(Text(f"in {printable(step.body) or 'main graph'}", "dim"))
        leaves = (
            index < len(self._steps) - 1
            or step.part in ("product", "fused")
            or any(end.direction == "forward" for end in self._trace.ends)
        )
        first = index == 0 and self._ahead is None and self._trace.source is None
        yield from self._box(
            step.op_type, _FRAMES.get(step.part, _PLAIN), _COLOURS.get(step.part, ""), not first, leaves, notes
        )
        if index < len(self._steps) - 1 or step.part in ("product", "fused"):
            yield self._edge(step, index)

    def _edge(self, step: Step, index: int) -> Text:
        line = Text.assemble(self._column, "│ ", (f"{edge_text(step.output)}  {_short(step.output.name)}", "dim"))
        if index == self._trace.read_at:
            line.append(f"  ◀━━ P, the map{self._renamed(step)}: the detector reads here", "bold magenta")
        site = self._trace.site
        if site is not None and step.part == "product" and site.product != step.output.name:
            line.append(f"  scaled to {_short(site.product)}", "dim")
        return line

    def _renamed(self, step: Step) -> str:
        """The other name that a map has outside its function or branch, where the product reads it."""
        site = self._trace.site
        return (
            "" if site is None or site.probabilities == step.output.name else f", by then {_short(site.probabilities)}"
        )

    def _box(
        self, name: str, frame: str, style: str, entered: bool, leaves: bool, notes: Sequence[Text]
    ) -> Iterator[Text]:
        corner, edge, right, side, low, low_right, top, bottom = tuple(frame)
        half = self._width // 2
        rest = edge * (self._width - half - 1)
        yield Text.assemble(_INDENT, (corner + edge * half + (top if entered else edge) + rest + right, style))
        rows = max(1, len(notes))
        for row in range(rows):
            label = name if row == 0 else ""
            line = Text.assemble(_INDENT, (side + label.center(self._width) + side, style), " ")
            yield line + notes[row] if row < len(notes) else line
        yield Text.assemble(_INDENT, (low + edge * half + (bottom if leaves else edge) + rest + low_right, style))

    def _side(self, side: Side) -> Text:
        edge = side.edge
        line = Text.assemble(
            "◀── ", (f"{printable(side.role):<{self._roles}}  ", "cyan"), edge_text(edge), (f"  {edge.origin}", "dim")
        )
        if edge.origin != "graph input":
            line.append(f" {_short(edge.name)}", "dim")
        site = self._trace.site
        if edge.origin == "graph input":
            line.append(f" {printable(edge.name)}")
        elif 0 < len(edge.inputs) <= 3:
            line.append(f"  from {', '.join(map(printable, edge.inputs))}")
        if site is not None and edge.inputs == (site.key_mask,):
            line.append("  (key mask)", "magenta")
        return line

    def _ends(self) -> Iterator[Text]:
        """Where each path from a rejected map ended."""
        ends = [end for end in self._trace.ends if end.direction == "forward"]
        for number, end in enumerate(ends[:_MOST_ENDS]):
            fork = "└" if number == len(ends) - 1 else "├"
            way = [*(step.op_type for step in end.steps), *([end.op_type] if end.op_type else [])]
            line = Text(f"{self._column}{fork}─▶ " + "".join(f"{name} ─▶ " for name in way))
            yield line + self._reason(end)
        if len(ends) > _MOST_ENDS:
            yield Text(f"{self._column}└─▶ and {len(ends) - _MOST_ENDS} more", "dim")

    def _reason(self, end: End) -> Text:
        text = Text.assemble(("✗ ", "red"), (end.code, "bold red" if end.reported else "red"))
        words = printable(end_text(end, self._trace.output))
        text.append(f": {words}" if words else "")
        if end.node:
            text.append(f"  {_short(end.node)}", "dim")
        return text

    def _lowered(self) -> Iterator[Text]:
        lowered = self._trace.lowered
        if lowered is None:
            return
        yield Text()
        yield Text(f"{_INDENT}what a patch writes in its place, before detector and gate:", "dim")
        reads = ": the detector reads here" if self._trace.read_at is None else ""
        marks = {lowered.map: f"P, the map{reads}", lowered.values: "V, the values", lowered.output: "its own output"}
        for op_type, outputs in lowered.nodes:
            for number, output in enumerate(outputs):
                if number == 0 or output in marks:
                    line = Text.assemble(
                        _INDENT, f"  {'' if number else op_type:<{self._width}}  ", (_short(output), "dim")
                    )
                    yield line.append(f"  ◀━━ {marks[output]}", "bold magenta") if output in marks else line


def _short(name: str) -> str:
    """A name for people, cut in the middle, since its end says more than its beginning."""
    name = printable(name)
    return name if len(name) <= _LONGEST_NAME else name[:8] + "…" + name[9 - _LONGEST_NAME :]
