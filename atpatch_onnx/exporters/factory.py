"""Plain torch modules: `package.module:factory` returns the module and example inputs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import BAD_OPTION, SOURCE_UNUSABLE, TASK_UNCLEAR
from .subject import Array, Group, Probe, Sizes, Subject
from .tasks import PLAIN_TASKS
from .wrappers import Plain

__all__ = ["load_subject"]

_FIX = "return (module, example inputs) or (module, example inputs, {input name: {axis: label}})"
# A dynamic axis traced at length 0 or 1 is taken for a constant by torch.export.
_SHORTEST = 2
# The checking runs have so many more rows, and so many fewer positions, than the example.
_MORE_ROWS, _FEWER_POSITIONS = 1, 3


def load_subject(source: str, task: str | None, dtype: str) -> tuple[Subject, str]:
    """The module that a factory returns, and its task.

    The factory takes no arguments. Example inputs: a tensor, a sequence (passed by position) or a mapping (passed by
    keyword).

    Raises:
        AtpatchError: ATP060 (dtype), ATP070 (no such factory, or it fails), ATP071 (a task for Hugging Face models).
    """
    name = task or "tabular"
    if name not in PLAIN_TASKS:
        raise TASK_UNCLEAR(
            f"the task {name!r} is for Hugging Face models",
            f"name one of {', '.join(PLAIN_TASKS)}, or leave --task out",
        )
    if dtype != "float32":
        raise BAD_OPTION("--dtype converts Hugging Face models only", "let the factory return a module of that type")
    module, examples, axes = _call(source)
    if any(parameter.dtype == torch.bfloat16 for parameter in module.parameters()):
        raise SOURCE_UNUSABLE(
            f"{source} is in bfloat16, which onnxruntime's CPU provider cannot load, so nothing could be checked",
            "use .float()",
        )
    module = module.cpu()
    keywords = isinstance(examples, Mapping)
    tensors = _named(source, module, examples)
    if axes is None:
        axes = {
            name_: {axis: label for axis, label in enumerate(PLAIN_TASKS[name]) if axis < tensor.ndim}
            for name_, tensor in tensors.items()
        }
    else:
        axes = {**{key: {} for key in tensors}, **axes}
    if unknown := set(axes) - set(tensors):
        raise SOURCE_UNUSABLE(f"{source} names axes of {', '.join(sorted(unknown))}, which is no input", _FIX)
    given = _lengths(source, tensors, axes)
    wrapped = Plain(module.eval(), tuple(tensors) if keywords else None)
    try:
        with torch.no_grad():
            outputs = tuple(Plain.named(module(**tensors) if keywords else module(*tensors.values())))
    except Exception as error:
        raise SOURCE_UNUSABLE(
            f"{source}: the module fails on its example inputs: {type(error).__name__}: {error}"
        ) from error
    traced, probes = _probes(given)
    groups = (Group(axes, _resampler(tensors, axes)),)
    return Subject(wrapped, outputs, groups, traced, probes, f"{type(module).__name__} of {source}", None), name


def _call(source: str) -> tuple[nn.Module, Any, dict[str, dict[int, str]] | None]:
    path, _, attribute = source.partition(":")
    # As `python -m` does it: the user's module usually lies in the folder they are in.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        factory: Any = import_module(path)
        for part in attribute.split("."):
            factory = getattr(factory, part)
        result = factory()
    except Exception as error:
        raise SOURCE_UNUSABLE(f"{source}: {type(error).__name__}: {error}", _FIX) from error
    if not isinstance(result, tuple) or len(result) not in (2, 3) or not isinstance(result[0], nn.Module):
        raise SOURCE_UNUSABLE(f"{source} returns {type(result).__name__}, not a module with example inputs", _FIX)
    return result[0], result[1], result[2] if len(result) == 3 else None


def _named(source: str, module: nn.Module, examples: Any) -> dict[str, Tensor]:
    if isinstance(examples, Tensor):
        examples = (examples,)
    if isinstance(examples, Mapping):
        named = dict(examples)
    elif isinstance(examples, Sequence):
        positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        names = [
            name for name, parameter in signature(module.forward).parameters.items() if parameter.kind in positional
        ]
        names += [f"input_{index}" for index in range(len(names), len(examples))]
        named = dict(zip(names, examples, strict=False))
    else:
        named = {}
    if not named or not all(isinstance(value, Tensor) for value in named.values()):
        raise SOURCE_UNUSABLE(f"{source}: the example inputs are not tensors", _FIX)
    return {name: value.detach().cpu() for name, value in named.items()}


def _lengths(source: str, tensors: Mapping[str, Tensor], axes: Mapping[str, Mapping[int, str]]) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for name, labels in axes.items():
        for axis, label in labels.items():
            if axis >= tensors[name].ndim:
                raise SOURCE_UNUSABLE(f"{source}: the example input {name!r} has no axis {axis}", _FIX)
            length = tensors[name].shape[axis]
            if lengths.setdefault(label, length) != length:
                raise SOURCE_UNUSABLE(
                    f"{source}: the example inputs have lengths {lengths[label]} and {length} on the axis {label!r}",
                    _FIX,
                )
    if empty := [label for label, length in lengths.items() if length == 0]:
        raise SOURCE_UNUSABLE(
            f"{source}: the example inputs are empty on the axis {empty[0]!r}", "give at least one row"
        )
    return lengths


def _probes(given: Mapping[str, int]) -> tuple[Probe, tuple[Probe, ...]]:
    """The example's own sizes to trace; more rows and fewer positions to check with, and a single row."""
    traced = {label: max(_SHORTEST, length) for label, length in given.items()}

    def other(label: str, length: int) -> int:
        return length + _MORE_ROWS if label == "batch" else max(1, length - _FEWER_POSITIONS)

    more = {label: other(label, length) for label, length in traced.items()}
    return Probe(traced), (Probe(more), Probe({**more, "batch": 1} if "batch" in more else more))


def _resampler(tensors: Mapping[str, Tensor], axes: Mapping[str, Mapping[int, str]]) -> Any:
    """Draws rows of the example again and cuts positions off its end, so codes, masks and value ranges stay valid."""

    def draw(rng: np.random.Generator, sizes: Sizes, padded: bool) -> dict[str, Array]:
        rows: dict[str, Tensor] = {}
        drawn: dict[str, Array] = {}
        for name, tensor in tensors.items():
            for axis, label in axes[name].items():
                if label not in rows:
                    length, wanted = tensor.shape[axis], sizes[label]
                    order = rng.integers(0, length, wanted) if label == "batch" else np.arange(wanted) % length
                    rows[label] = torch.from_numpy(order)
                tensor = tensor.index_select(axis, rows[label])
            drawn[name] = tensor.numpy()
        return drawn

    return draw
