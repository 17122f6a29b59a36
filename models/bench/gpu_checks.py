"""What `gpu` measures of one model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.benchmark.paired_latency import Spread, time_pairs
from atpatch_onnx.benchmark.requests import FAR, highest_threshold
from atpatch_onnx.benchmark.result import ratio_interval
from rewriters.names import FLAGGED, THRESHOLD, is_telemetry

from .cuda_form import forecast
from .device_runs import Device, Feeds, Held, Seen, Sizes, fixed_graph, open_session, outputs_of
from .gpu_models import SEED, request

__all__ = ["Files", "Live", "captured", "copies", "equality", "misses", "ratios"]

Arrays = dict[str, NDArray[Any]]
Figures = dict[str, Any]
Pair = tuple[Held, Held]

FLOOR = 3
"""A patch may differ between devices by so many times what the original does."""
FEWEST = 10
"""Fewest pairs of a ratio, however long they take."""


@dataclass(frozen=True)
class Files:
    """The original; the patch without branches, with them, without them but with telemetry; a folder for scratch."""

    original: Path
    free: Path
    branches: Path
    telling: Path
    folder: Path


@dataclass(frozen=True)
class Live:
    """Sessions for all shapes on the original, and on the patch without branches and with them."""

    files: Files
    device: Device
    sessions: tuple[Any, Any, Any]

    @classmethod
    def of(cls, files: Files, device: Device) -> Live:
        original, free, branches = (open_session(path, device) for path in (files.original, files.free, files.branches))
        return cls(files, device, (original, free, branches))


def equality(files: Files, device: Device, sizes: Sizes) -> Figures:
    """A silent request and a firing one on the device and on the CPU; differences are shares of the largest output.

    The threshold of the firing request lies in the middle between the two highest scores, so that rounding flags no
    other column.
    """
    inputs = request(files.original, sizes, SEED)
    cpu = Device(cuda=False)
    one, other = (open_session(files.original, at, exact=True) for at in (device, cpu))
    before, before_cpu = outputs_of(one, inputs), outputs_of(other, inputs)
    del one, other
    told, told_cpu = (open_session(files.telling, at, exact=True) for at in (device, cpu))
    threshold, margin = _between(lambda level: int(_columns(outputs_of(told, _at(inputs, level))).sum()))
    silent, silent_cpu = (outputs_of(live, _at(inputs, FAR)) for live in (told, told_cpu))
    firing, firing_cpu = (outputs_of(live, _at(inputs, threshold)) for live in (told, told_cpu))
    return {
        "sizes": dict(sizes),
        "devices": _difference(before, before_cpu),
        "silent": {
            "same_bits": _same(silent, before),
            "same_bits_cpu": _same(silent_cpu, before_cpu),
            "difference": _difference(silent, before),
            "difference_cpu": _difference(silent, silent_cpu),
        },
        "firing": {
            "threshold": threshold,
            "margin": margin,
            "columns": int(_columns(firing).sum()),
            "flags_differ": int((_columns(firing) != _columns(firing_cpu)).sum()),
            "difference_cpu": _difference(firing, firing_cpu),
            "effect": _difference(firing, silent),
        },
    }


def copies(files: Files, device: Device, sizes: Sizes) -> Figures:
    """Kernels by provider and copies between host and device, of a silent request; sizes open and fixed."""
    inputs = _at(request(files.original, sizes, SEED), FAR)
    found: Figures = {}
    for name, fixed in (("open", None), ("fixed", sizes)):
        forms = {"original": files.original, "branch-free": files.free, "branches": files.branches}
        found[name] = {
            form: asdict(
                Seen.of(open_session(path, device, sizes=fixed, profile=files.folder / "profile"), inputs),
            )
            for form, path in forms.items()
        }
    told = forecast(*fixed_graph(files.free, sizes, inputs, files.folder))
    found["forecast"] = {**asdict(told), "copies": len(told.copies)}
    return found


def captured(files: Files, device: Device, sizes: Sizes) -> tuple[Figures, Pair | None]:
    """Original and branch-free patch as captured graphs, and how far their answers are from those of plain runs. On the
    CPU everything but the capture.

    Returns:
        the figures, and both graphs with a request in their memory; None where onnxruntime refuses to capture.
    """
    inputs, later = (request(files.original, sizes, seed) for seed in (SEED, SEED + 1))
    asked = {
        "silent": _at(inputs, FAR),
        "flagged": _at(inputs, -FAR),
        "other inputs": _at(later, FAR),
        "other inputs, flagged": _at(later, -FAR),
    }
    held: list[Held] = []
    found: dict[str, Figures] = {}
    for name, path in (("original", files.original), ("branch-free", files.free)):
        plain = open_session(path, device, sizes=sizes)
        wanted = {kind: outputs_of(plain, feeds) for kind, feeds in asked.items()}
        del plain
        try:
            one = Held(
                open_session(path, device, sizes=sizes, capture=device.cuda), device, asked["silent"], wanted["silent"]
            )
            for _ in range(2):
                one.run()  # the first run makes room, the second one is captured
        except Exception as error:  # onnxruntime's exception classes share no base of their own
            return {"captured": False, "refused": f"{name}: {' '.join(str(error).split())[:400]}"}, None
        found[name] = {kind: _difference(one.ask(feeds), wanted[kind]) for kind, feeds in asked.items()}
        held.append(one)
    return {"captured": device.cuda, "differences": found}, (held[0], held[1])


def ratios(live: Live, sizes: Sizes, pair: Pair | None, *, pairs: int, seconds: float) -> Figures:
    """Patched / original in turns, for each form: nothing flagged, and everything flagged."""
    inputs = request(live.files.original, sizes, SEED)
    asked = {"silent": _at(inputs, FAR), "flagged": _at(inputs, -FAR)}
    original, free, branches = (
        Held(one, live.device, asked["silent"], outputs_of(one, asked["silent"])) for one in live.sessions
    )
    arms = {"branch-free": (original, free), "branches": (original, branches)}
    if pair is not None:
        arms["captured"] = pair
    found: Figures = {}
    for form, (first, second) in arms.items():
        found[form] = {}
        for kind, feeds in asked.items():
            first.ask(feeds)
            second.ask(feeds)
            taken = time_pairs(first.run, second.run, pairs=pairs, seconds=seconds, fewest=min(FEWEST, pairs))
            spreads = [Spread.of(column * 1e3) for column in taken.T]
            found[form][kind] = {
                "original_ms": asdict(spreads[0]),
                "patched_ms": asdict(spreads[1]),
                "ratio": asdict(ratio_interval(taken)),
                "pairs": len(taken),
            }
    return found


def misses(figures: Figures, *, captures: bool) -> Iterator[str]:
    """What is not as expected, one line each.

    Args:
        captures: whether a graph should have been captured.
    """
    name, equal = figures["model"], figures["equality"]
    silent, firing = equal["silent"], equal["firing"]
    most = max(figures["tolerance"], FLOOR * equal["devices"])
    checked = {
        "a silent request differs from the original": silent["difference"],
        "a silent request differs from the CPU": silent["difference_cpu"],
        "a firing request differs from the CPU": firing["difference_cpu"],
    }
    for shape, one in figures["shapes"].items():
        for form, kinds in one["captured"].get("differences", {}).items():
            checked |= {f"{shape}: {form}, captured, {kind}: other answers": found for kind, found in kinds.items()}
        if captures and not one["captured"]["captured"]:
            yield f"{name}, {shape}: no graph was captured"
    for what, found in checked.items():
        if not found <= most:
            yield f"{name}: {what}: by {found:.2g} of the largest output, at most {most:g}"
    if firing["flags_differ"]:
        yield f"{name}: {firing['flags_differ']} flags differ from the CPU's; margin {firing['margin']:.2g}"
    if not firing["columns"] or not firing["effect"]:
        yield f"{name}: the firing request changes nothing"
    if count := figures["copies"]["fixed"]["branch-free"]["copies"]:
        yield f"{name}: {count} copies between host and device"


def _between(count: Callable[[float], int]) -> tuple[float, float]:
    """The middle between the highest score and the next one that flags more, and half their distance.

    Args:
        count: threshold → columns flagged.
    """
    best = _exact(count, 1)
    second = _exact(count, count(best) + 1)
    return (best + second) / 2, (best - second) / 2


def _exact(count: Callable[[float], int], wanted: int) -> float:
    """The highest threshold that flags so many; an odd number is never found, so the search goes to its end."""
    return highest_threshold(lambda threshold: 2 * count(threshold), 2 * wanted - 1)


def _at(inputs: Feeds, threshold: float) -> Arrays:
    return {**inputs, THRESHOLD: np.array(threshold, np.float32)}


def _columns(outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """All flags of all sites in one row."""
    return np.concatenate([outputs[name].ravel() for name in sorted(outputs) if is_telemetry(name) and name != FLAGGED])


def _answers(outputs: Mapping[str, NDArray[Any]]) -> Arrays:
    return {name: array for name, array in outputs.items() if not is_telemetry(name)}


def _same(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> bool:
    answers = _answers(other)
    return all(one[name].tobytes() == array.tobytes() for name, array in answers.items())


def _difference(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> float:
    """The largest one over all answers, as a share of the answer's largest entry."""
    found = 0.0
    for name, array in _answers(other).items():
        wanted = array.astype(np.float64)
        if wanted.size:
            largest = float(np.abs(one[name].astype(np.float64) - wanted).max())
            found = max(found, largest / max(float(np.abs(wanted).max()), 1e-12))
    return found
