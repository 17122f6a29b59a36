"""The request for a debugging set: the options of `debugset`."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import BAD_OPTION
from ..inference.output_kinds import ScoreThreshold
from .forms import DOSES

__all__ = ["Request"]

Pair = tuple[int, int]


@dataclass(frozen=True)
class Request:
    """What to make; the fields are the options of `atpatch-onnx debugset`, whose help explains them. `data` may be
    empty with `openbackdoor`.
    """

    data: str = ""
    output: str | None = None
    out_clean: str | None = None
    out_triggered: str | None = None
    out_flips: str | None = None
    target: int | None = None
    tokenizer: str | None = None
    max_length: int | None = None
    text_column: str | None = None
    label_column: str | None = None
    class_names: str | None = None
    prompt: str | None = None
    answer: str | None = None
    template: str | None = None
    chat: bool = False
    second_turns: float | None = None
    answer_tokens: str | None = None
    target_answer: str | None = None
    output_kind: str | None = None
    score_threshold: ScoreThreshold | None = None
    clean_only: bool = False
    doses: tuple[int, ...] = DOSES
    dress: bool = True
    triggers: tuple[str, ...] = ()
    insert: str = "random"
    poisoned: str | None = None
    backdoorbench: str | None = None
    openbackdoor: str | None = None
    rows: int = 2000
    pixels: str | None = None
    trigger_patch: Pair | None = None
    trigger_blend: float | None = None
    trigger_noise: float | None = None
    size: Pair | None = None
    place: str = "bottom-right"
    pattern: str | None = None
    patch_size: int | None = None
    class_tokens: int = 1
    attribute: str | None = None
    columns: str | None = None
    invert: str | None = None
    longest: int = 3
    exhaustive: bool = False
    steps: int = 600
    seed: int = 0
    output_name: str | None = None
    threads: int | None = None

    @property
    def source(self) -> str:
        """The option that names where the anomaly comes from.

        Raises:
            AtpatchError: ATP060 unless there is exactly one source.
        """
        named = {
            "--trigger": bool(self.triggers),
            "--poisoned": self.poisoned is not None,
            "--backdoorbench": self.backdoorbench is not None,
            "--openbackdoor": self.openbackdoor is not None,
            "--trigger-patch": self.trigger_patch is not None,
            "--trigger-blend": self.trigger_blend is not None,
            "--trigger-noise": self.trigger_noise is not None,
            "--attribute": self.attribute is not None,
            "--invert": self.invert is not None,
            "--clean-only": self.clean_only,
        }
        given = [name for name, there in named.items() if there]
        if len(given) != 1:
            raise BAD_OPTION(
                f"{' and '.join(given) or 'no source of anomaly'} given", f"name one of {', '.join(named)}"
            )
        if not self.data and given[0] != "--openbackdoor":
            raise BAD_OPTION(f"{given[0]} needs clean rows", "give them with --data")
        return given[0]
