"""What the rules read: the model, where it lies, and what the analysis of its dataflow gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from rewriters import names
from rewriters.editing import patcher
from rewriters.errors import AtpatchError
from rewriters.model.external_data import check_external, external_locations

from ..finding import Finding, Severity
from .flow import Flow, Step
from .places import Places
from .states import Meeting
from .taint import Taint
from .values import Values

if TYPE_CHECKING:
    from .rule import Rule

__all__ = ["Material", "prepare"]

_MOST_NODES = 40
"""In one finding."""


@dataclass(frozen=True)
class Material:
    """A model under audit.

    Attributes:
        model: without its external data.
        path: its file; None for a model in memory.
        maker: value → the step that makes it.
        patch: why the model's stamp cannot be believed; "" where taking the patch out gives the original; None where
            there is no stamp.
        unread: why external data must not be read; None where they may.
    """

    model: onnx.ModelProto
    path: Path | None
    flow: Flow
    values: Values
    taint: Taint
    places: Places
    maker: dict[int, Step]
    patch: str | None
    unread: str | None

    def sources(self, meeting: Meeting) -> str:
        """The inputs that a test reads, for people."""
        found = self.read_by(meeting.raw)
        return ", ".join([name for name in self.flow.inputs if name in found][:3]) or "the input"

    def read_by(self, value: int) -> set[str]:
        """The inputs that a value is computed from."""
        behind = set(self._behind(value))
        return {name for name, source in self.flow.inputs.items() if source in behind}

    def found(self, rule: Rule, meeting: Meeting, why: str, severity: Severity | None = None) -> Finding:
        """The node where the test acts comes first in `nodes`, then the nodes of the test, the nearest first.

        Args:
            severity: by default the rule's.
        """
        step = self.flow.steps[meeting.step]
        nodes = [step.name, *(behind.name for behind in self.steps_behind(meeting.raw))]
        return rule.finding(step.name, why, tuple(dict.fromkeys(nodes))[:_MOST_NODES], severity=severity)

    def steps_behind(self, value: int, decides: bool = True) -> Iterator[Step]:
        """The steps that a value is computed by, the nearest first; those of constants left out.

        Args:
            decides: also those of what only decides, such as the condition of an If.
        """
        return (self.maker[reached] for reached in self._behind(value, decides) if reached in self.maker)

    def _behind(self, value: int, decides: bool = True) -> Iterator[int]:
        """A computed value and all that it is computed from, the nearest first; constants left out."""
        found, seen = [value], {value}
        for reached in found:  # it grows meanwhile
            yield reached
            step = self.maker.get(reached)
            for source in () if step is None else (*step.inputs, *(step.decides if decides else ())):
                if source not in seen and self.taint.state(source) is not None:
                    seen.add(source)
                    found.append(source)


def _unread(model: onnx.ModelProto, path: Path | None) -> str | None:
    """Nothing is opened before every location is known to lie in the model's folder."""
    if not external_locations(model):
        return None
    if path is None:
        return "the model has external data and no file was given"
    try:
        check_external(model, path.parent)
    except AtpatchError as error:
        return error.what
    return None


def _patch(model: onnx.ModelProto) -> str | None:
    reason = None
    for exact in (True, False) if patcher.is_patched(model) else ():
        try:
            patcher.unpatch(model, exact=exact)
        except AtpatchError as error:
            reason = error.what
        else:
            return ""
    return reason


def prepare(model: onnx.ModelProto, path: Path | None, flow: Flow) -> Material:
    """Analyze a flow."""
    values = Values(model, flow)
    taint = Taint(flow, values)
    patch = _patch(model)
    outputs = [value for name, value in flow.outputs.items() if patch != "" or not names.is_telemetry(name)]
    places, unread = Places(flow, taint, outputs), _unread(model, path)
    return Material(model, path, flow, values, taint, places, taint.makers, patch, unread)
