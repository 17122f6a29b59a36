"""What is exported: a torch module behind positional tensors, how to feed it, and which of its axes may change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Array", "Draw", "Feeds", "Group", "Probe", "Sizes", "Subject"]

Sizes = Mapping[str, int]
"""Axis label → its length. Labels are what the graph's dynamic axes are called: "batch", "sequence", ..."""

Array = NDArray[np.generic]
Draw = Callable[[np.random.Generator, Sizes, bool], dict[str, Array]]
"""Draws inputs that belong together (tokens and their mask): generator, sizes, whether to pad → input name → array."""


@dataclass(frozen=True)
class Group:
    """Inputs that are drawn together, and the dynamic axes of each: input name → axis → label."""

    axes: Mapping[str, Mapping[int, str]]
    draw: Draw


@dataclass(frozen=True)
class Probe:
    """One set of sizes to run with.

    Lengths of different labels differ, so that the length of an output axis shows which label it follows.
    """

    sizes: Sizes
    padded: bool = False


@dataclass(frozen=True)
class Feeds:
    """Inputs of one run, in the module's order."""

    tensors: Mapping[str, Tensor]

    def positional(self) -> tuple[Tensor, ...]:
        return tuple(self.tensors.values())

    def arrays(self) -> dict[str, Array]:
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}


@dataclass(frozen=True)
class Subject:
    """A module ready for export.

    Attributes:
        module: positional tensors in, a tuple of tensors out.
        outputs: names of those outputs.
        groups: the inputs, in the module's order.
        traced: sizes of the example that is traced.
        probes: sizes of the runs that the graph is checked with; none is the traced one.
        description: what it is, for people.
        attention: attention implementation, None where the module itself decides.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    groups: tuple[Group, ...]
    traced: Probe
    probes: tuple[Probe, ...]
    description: str
    attention: str | None

    def __post_init__(self) -> None:
        # A fresh wrapper is in training mode, and TorchScript's exporter puts that back afterwards, dropout of the
        # model inside included. With gradients torch traces SDPA under a learned bias (T5, Swin, BEiT) along another
        # path, whose strides dynamo then fails on.
        self.module.eval().requires_grad_(False)

    @property
    def axes(self) -> dict[str, dict[int, str]]:
        """Input name → axis → label."""
        return {name: dict(axes) for group in self.groups for name, axes in group.axes.items()}

    def feeds(self, probe: Probe, seed: int = 0) -> Feeds:
        """Inputs of a probe, the same on every call; floats come in the module's own precision."""
        import torch

        rng = np.random.default_rng(seed)
        drawn = {
            name: array for group in self.groups for name, array in group.draw(rng, probe.sizes, probe.padded).items()
        }
        dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in drawn.items()}
        return Feeds({name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()})

    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters and buffers; shared ones count once."""
        return sum(
            tensor.numel() * tensor.element_size() for tensor in [*self.module.parameters(), *self.module.buffers()]
        )
