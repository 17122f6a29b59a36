"""What a value can know about the input: the letters of the taint analysis.

A value is constant (no state), *raw* (computed from inputs without a layer of the network) or of the *network* (behind
an embedding or a linear layer). Where raw and network meet, the value is of the network, and a `Meeting` is kept.

A raw value is a *test* when it can tell one input from others nearby: by a comparison, or by arithmetic that imitates
one. Sums, scalings and statistics of a whole input are no tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Literal, NamedTuple

__all__ = ["Bits", "Meeting", "State", "bent", "kinked", "union"]


class Bits(IntFlag):
    """Properties of a value."""

    CONTENT = 1
    """Depends on an input that the network reads."""
    OTHER = 2
    """Depends on an input that the network does not read: masks, lengths, caches, switches."""
    NET = 4
    """Of the network."""
    WHOLE = 8
    """From whole numbers, such as token ids."""
    SHIFT = 16
    """Something constant was added."""
    NONLINEAR = 32
    TEST = 64
    """See above."""
    PICK = 128
    """A few elements at fixed places."""
    WEIGHTED = 256
    """Multiplied with unequal constants; a sum over it is a hash."""
    HASH = 512
    REDUCED = 1024
    """A sum, maximum or pick: one answer for many places."""
    COUNT = 2048
    """A position, a length or an index."""
    BOOLEAN = 4096
    """0 or 1."""
    NET_TEST = 8192
    """A comparison of a value of the network with a constant."""
    NARROW = 16384
    """The result of a layer with one to three outputs."""
    OFFSET = 32768
    """A test or a narrow value, multiplied with a constant of several elements."""

    HIDES = 65536
    """Zero, or a number so small that what it is added to no longer counts in a Softmax."""

    SIZED = 131072
    """How many elements there are depends on the input's elements."""


class State(NamedTuple):
    """See the module.

    Attributes:
        depth: layers on the longest way from an input.
        direct: inputs, as bits, whose elements arrive here as numbers.
    """

    bits: int
    depth: int = 0
    direct: int = 0

    @property
    def net(self) -> bool:
        return bool(self.bits & Bits.NET)

    @property
    def test(self) -> bool:
        return bool(self.bits & Bits.TEST)

    def plus(self, bits: int) -> State:
        return State(self.bits | bits, self.depth, self.direct)

    def minus(self, bits: int) -> State:
        return State(self.bits & ~bits, self.depth, self.direct)


Role = Literal["meet", "select", "index", "layer", "embedding", "mask", "concat", "nets", "offset", "hash"]


@dataclass(frozen=True)
class Meeting:
    """A place where a test acts on something.

    Attributes:
        role: "meet": element by element with the network; "select": it decides what is taken; "index": it is an index,
            or a size; "layer", "embedding": it enters the first layer; "mask": a mask input of fused attention;
            "concat"; "nets", "offset": both sides are of the network; "hash": token ids enter a layer as numbers.
        step: number of the step.
        raw: value of the test.
        state: of the test.
        others: values that it acts on, or chooses from.
    """

    role: Role
    step: int
    raw: int
    state: State
    others: tuple[int, ...]


def union(states: list[State]) -> State:
    """Of values that are combined without more being known."""
    bits = depth = direct = 0
    for state in states:
        bits |= state.bits
        depth = max(depth, state.depth)
        direct |= state.direct
    for shared in (Bits.BOOLEAN, Bits.HIDES):
        if not all(state.bits & shared for state in states):
            bits &= ~shared
    return State(bits, depth, direct)


def kinked(state: State) -> State:
    """After a function with a step or a kink, such as Abs, Clip or Relu."""
    tests = state.bits & (Bits.SHIFT | Bits.PICK | Bits.HASH | Bits.REDUCED)
    return state.plus(Bits.NONLINEAR | (Bits.TEST if tests else 0)).minus(Bits.BOOLEAN)


def bent(state: State) -> State:
    """After a smooth function. It imitates a step on whole numbers, on a hash, and on few elements around a point."""
    bits = state.bits
    tests = bits & Bits.HASH or (bits & Bits.SHIFT and bits & (Bits.WHOLE | Bits.PICK))
    return state.plus(Bits.NONLINEAR | (Bits.TEST if tests else 0)).minus(Bits.BOOLEAN)
