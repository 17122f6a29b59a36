"""Options of a patch: `PatchOptions`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from rewriters.choices import Accept, ControlInputs, Gating, Mend, Passes, SpanInput

from ..errors import BAD_OPTION
from ..options import option

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rewriters.model.forms import PathLike

    from .file import Hotfix

__all__ = ["Benign", "DetectorKind", "PatchKeywords", "PatchOptions", "PlanKeywords", "Values", "benign_level"]

Benign = float | Literal["mean", "zero"]
"""Level of the benign attention, in multiples of its mean."""

DetectorKind = Literal["statistic", "static", "onnx", "smoothing"]
Target = Literal["cpu", "cuda"]
Values = Literal["benign", "own"]


def _columns(text: str) -> tuple[int, ...]:
    try:
        return () if text == "none" else tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError("give positions like 3,7, or none") from error


def _benign(text: str) -> float | str:
    try:
        return text if text in ("mean", "zero") else float(text)
    except ValueError as error:
        raise ValueError("give mean, zero, or a number such as 0.5") from error


class PlanKeywords(TypedDict, total=False):
    """Those of `PatchOptions` that a plan takes whose sites and detectors are given, as keywords of a call."""

    threshold: float | None
    benign: Benign | None
    values: Values | None
    passes: Passes | None
    mend: Mend | None
    accept: Accept | None
    gating: Gating | None
    telemetry: bool
    span: SpanInput | None
    controls: ControlInputs | None
    force: bool


class PatchKeywords(PlanKeywords, total=False):
    """`PatchOptions` as keywords of a call."""

    hotfix: PathLike | Hotfix | None
    detector: DetectorKind | None
    columns: Sequence[int] | None
    detector_model: PathLike | None
    calibrate: PathLike | Mapping[str, NDArray[Any]]
    calibration_rows: int
    save_hotfix: PathLike | None
    target: Target
    freeze: bool
    portable: bool
    include: str | None
    exclude: str | None
    verify_key: PathLike | None


@dataclass(frozen=True, kw_only=True)
class PatchOptions:
    """Options of a patch. None: not given.

    Attributes:
        hotfix: hotfix that 'fit' wrote; by default MODEL.hotfix next to the model, if it exists.
        detector: a detector that needs no hotfix, used whatever the model is; smoothing flags rows of attention instead
            of columns, and evens them out, in decoders.
        columns: columns that detector static flags: 3,7 or none (never fires).
        detector_model: ONNX file of detector onnx: (B, H, Q, K) float32 to scores (B, K).
        calibrate: what a model without a hotfix is calibrated on. noise: random tokens, for text encoders; a file
            (.npz): its clean rows, for any model but decoders; none: nothing, the detector is then statistic; auto:
            MODEL.hotfix if there is one (and --save-hotfix is not given), else noise.
        calibration_rows: number of random texts to calibrate on.
        save_hotfix: write the calibrated hotfix to this file too.
        threshold: flag columns whose score is above this.
        benign: level of benign attention; a number is a multiple of the mean (without a hotfix: of uniform attention).
        values: replace a flagged column's value too (benign, the default), or keep it (own, the paper's form).
        passes: patch each site as it comes (one), or detect at all sites and run flagged samples again (two); by
            default as the hotfix says, else one.
        mend: of two passes: redistribute attention in the second run, excise the flagged tokens from its request, or
            heal the keys and values of a decoder, which its cache then carries.
        accept: of two passes: keep the second run's outputs always, or only where the prediction flips.
        gating: redistribute only when something is flagged (if), or branch-free (none); by default if on cpu, none on
            cuda, and if with two passes.
        target: chooses the gating: if on cpu, none on cuda.
        telemetry: add outputs that say which columns were flagged.
        span: add an input that marks a span of tokens, optional (empty where it is left out) or required, and an output
            that says how much of the answer row's attention goes there.
        controls: inputs that control the patch: optional (default; none below IR version 4), required (genai and
            JavaScript ignore optional ones), or none (constants).
        freeze: the same as controls none.
        portable: for tools that rewrite the graph later: no branches, no controls. Costs a little on every request; two
            passes then run twice on every request.
        include: only sites whose id or scope matches this regular expression.
        exclude: leave out sites whose id or scope matches this regular expression.
        force: use a hotfix that was made for another model.
        verify_key: public key (PEM); the hotfix must carry a good signature of it, HOTFIX.sig.

    Raises:
        AtpatchError: ATP060 where options contradict each other or one is out of range.
    """

    hotfix: PathLike | Hotfix | None = None
    detector: DetectorKind | None = option(None, choices=DetectorKind)
    columns: Sequence[int] | None = option(None, metavar="LIST", parse=_columns)
    detector_model: PathLike | None = None
    calibrate: PathLike | Mapping[str, NDArray[Any]] = option("auto", metavar="auto|noise|none|ROWS")
    calibration_rows: int = option(1200, at_least=40)
    save_hotfix: PathLike | None = option(None, metavar="FILE")
    threshold: float | None = None
    benign: Benign | None = option(None, metavar="zero|mean|NUMBER", parse=_benign)
    values: Values | None = option(None, choices=Values)
    passes: Passes | None = option(None, choices=Passes)
    mend: Mend | None = option(None, choices=Mend)
    accept: Accept | None = option(None, choices=Accept)
    gating: Gating | None = option(None, choices=Gating)
    target: Target = option("cpu", choices=Target)
    telemetry: bool = False
    span: SpanInput | None = option(None, choices=SpanInput)
    controls: ControlInputs | None = option(None, choices=ControlInputs)
    freeze: bool = False
    portable: bool = False
    include: str | None = option(None, metavar="RE")
    exclude: str | None = option(None, metavar="RE")
    force: bool = False
    verify_key: PathLike | None = option(None, metavar="PEM")

    def __post_init__(self) -> None:
        for asked, name in ((self.freeze, "freeze"), (self.portable, "portable")):
            if asked and self.controls not in (None, "none"):
                raise BAD_OPTION(
                    f"{name} means that there are no runtime controls, so they cannot be {self.controls}",
                    f"leave --{name} or --controls out",
                )
        if self.portable and self.span == "optional":
            raise BAD_OPTION("a portable patch has no optional inputs", "give --span required, or leave --portable out")
        if self.portable and self.gating == "if":
            raise BAD_OPTION("a portable patch is branch-free", "leave --portable or --gating out")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise BAD_OPTION(f"threshold {self.threshold} is not a finite number")
        if self.columns is not None and self.detector != "static":
            raise BAD_OPTION(
                "columns go with the static detector only", "add --detector static, or leave --columns out"
            )
        if self.columns is None and self.detector == "static":
            raise BAD_OPTION(
                "the static detector needs columns", "add --columns 3,7, or --columns none for a patch that never fires"
            )
        if any(column < 0 for column in self.columns or ()):
            raise BAD_OPTION("a column is a position from 0 up")
        if (self.detector_model is None) != (self.detector != "onnx"):
            raise BAD_OPTION("the onnx detector and its file go together", "give --detector onnx --detector-model FILE")
        if self.hotfix is not None and self.detector is not None:
            raise BAD_OPTION("a hotfix brings its own detector", "give --hotfix or --detector, not both")
        if self.detector == "smoothing" and (self.passes == "two" or self.mend is not None):
            raise BAD_OPTION("smoothing is a repair of its own, in one pass", "leave --passes and --mend out")
        if self.detector == "smoothing" and (self.benign is not None or self.values is not None):
            raise BAD_OPTION("smoothing has no benign attention or values", "leave --benign and --values out")
        given = "a hotfix" if self.hotfix is not None else "--detector" if self.detector is not None else None
        if given is not None and (self.calibrate != "auto" or self.save_hotfix is not None):
            raise BAD_OPTION(f"with {given} nothing is calibrated", "leave --calibrate and --save-hotfix out")
        if self.calibrate == "none" and self.save_hotfix is not None:
            raise BAD_OPTION("--calibrate none makes no hotfix to save", "leave --save-hotfix out")

    @property
    def asks_to_calibrate(self) -> bool:
        """Whether the model is calibrated even if there is a hotfix next to it."""
        return self.calibrate != "auto" or self.save_hotfix is not None

    @property
    def control_inputs(self) -> ControlInputs:
        """`PatchPlan.controls`."""
        return self.controls or ("none" if self.freeze or self.portable else "optional")

    def gating_of(self, passes: Passes) -> Gating:
        """`PatchPlan.gating`. A branch costs less than a second run in every request, on any device."""
        if self.portable:
            return "none"
        return self.gating or ("none" if self.target == "cuda" and passes == "one" else "if")


def benign_level(benign: Benign) -> float:
    """Multiple of the mean.

    Raises:
        AtpatchError: ATP060 where it is no level.
    """
    level = {"mean": 1.0, "zero": 0.0}.get(benign) if isinstance(benign, str) else benign
    if level is None or not 0 <= level < math.inf:
        raise BAD_OPTION(f"benign level {benign!r} is neither mean, zero nor a number from 0 up")
    return float(level)
