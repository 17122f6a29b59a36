"""Options of a Ray Serve deployment: `RayOptions`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from ..errors import BAD_OPTION
from ..options import option

__all__ = ["Mode", "RayKeywords", "RayOptions"]

Mode = Literal["shadow", "ab", "patched", "original"]


class RayKeywords(TypedDict, total=False):
    """`RayOptions` as keywords of a call."""

    mode: Mode
    weight: float
    experiment: str
    replicas: int
    threads: int
    host: str
    port: int


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """How Ray Serve runs both arms.

    Attributes:
        mode: who answers.
        weight: of mode ab: share of units for the patched arm.
        experiment: name of the experiment; part of the split.
        replicas: servers.
        threads: threads of onnxruntime, and CPUs that Ray sets aside for a replica.
        host: address that Ray's proxies listen on.
        port: their port.

    Raises:
        AtpatchError: ATP060 where one is out of range.
    """

    mode: Mode = option("shadow", choices=Mode)
    weight: float = option(0.1, at_least=0, at_most=1)
    experiment: str = "atpatch"
    replicas: int = option(2, at_least=1)
    threads: int = option(1, at_least=1)
    host: str = "127.0.0.1"
    port: int = option(8000, at_least=1, at_most=65535)

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise BAD_OPTION(f"mode {self.mode!r} is none of {', '.join(get_args(Mode))}")
        if not 0 <= self.weight <= 1 or self.replicas < 1 or self.threads < 1 or not 1 <= self.port <= 65535:
            raise BAD_OPTION(
                "the weight must lie in 0 to 1, the port in 1 to 65535; replicas and threads cannot be below 1"
            )
