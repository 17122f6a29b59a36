"""Turns a request (the options of `debugset`) into files: chooses the function that makes the set, calls it, writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rewriters.model.forms import Model
from rewriters.model.regular_files import check_destination

from ..errors import BAD_OPTION, EXTRA_MISSING
from ..inference.answer_tokens import parse_answer_tokens
from ..inference.datasets import DataSet, load_dataset
from ..inference.output_kinds import kind_of
from ..inference.tokenizer import TextEncoder
from .clean import is_text, read_labeled_texts
from .flips import build_flips
from .foreign import backdoorbench_sets, files_read, openbackdoor_sets
from .forms import image_forms
from .images import Grid, build_images, image_layout, make_trigger, read_pattern
from .prompts.making import is_prompts, prompt_sets
from .request import Request
from .row_checks import check_scale
from .samples import Texts
from .sets import Built, clean_arrays, write_arrays
from .subject import Subject
from .tables import attribute_of, read_description, read_table
from .target import answered_otherwise, find_target
from .text import build_poisoned, build_texts, clean_texts

__all__ = ["Made", "Progress", "Request", "build", "make"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Made:
    """The report; `found` is False where an inversion found no class with a backdoor."""

    report: Mapping[str, Any]
    found: bool = True


def make(model: Model, request: Request, progress: Progress | None = None) -> Made:
    """Make the debugging set of a request, and write it and the other sets that were asked for.

    Raises:
        AtpatchError: ATP002 and ATP080-ATP081 (files), ATP010 and ATP012 (model), ATP019 (output), ATP050-ATP052
            (runtime, extras), ATP056 (data), ATP060 (options), ATP082-ATP084 (see `explain`).
    """
    _check_files(request)
    answers = parse_answer_tokens(request.answer_tokens, request.tokenizer)
    subject = Subject(model, request.output_name, request.threads, answers)
    subject.score_threshold, subject.output_kind = request.score_threshold, kind_of(request.output_kind)
    built = build(subject, request, progress)
    written: dict[str, int] = {}
    if built.debug is not None:
        wanted = {
            request.output: built.debug,
            request.out_clean: built.clean,
            request.out_triggered: built.triggered,
            request.out_flips: built.flips,
        }
        for path, arrays in wanted.items():
            if path is None:
                continue
            assert arrays is not None  # `_check_files` refuses what a source does not make
            write_arrays(path, arrays)
            written[path] = len(DataSet.from_arrays(arrays))
    return Made(
        {"source": request.source.lstrip("-"), "written": written, "seed": request.seed, **built.report},
        built.debug is not None,
    )


def build(subject: Subject, request: Request, progress: Progress | None = None) -> Built:
    """The sets of a request as arrays; nothing is written.

    Raises:
        AtpatchError: as `make`, without those of files to write.
    """
    prompts = is_prompts(request)
    given = prompts or request.source in _FIND_THE_TARGET
    if subject.by_twin and (prompts or request.source in _NEED_CLASSES):
        what = "prompts" if prompts else request.source
        raise BAD_OPTION(f"{what} need classes, and the model answers with {subject.output_kind}")
    if request.invert is not None and request.score_threshold is not None:
        raise BAD_OPTION("--invert needs class scores, and --score-threshold makes classes of one score")
    if not given and not subject.by_twin and request.target is None:
        raise BAD_OPTION(f"{request.source} needs the class that the trigger leads to", "give it with --target")
    subject.progress = progress
    builder = _prompts if prompts else _BUILDERS[request.source]
    return builder(subject, request, progress or (lambda step, done, total: None))


def _check_files(request: Request) -> None:
    flips, clean = request.source == "--attribute", request.source == "--clean-only"
    for option, path, fits in (
        ("--out-triggered", request.out_triggered, not flips and not clean),
        ("--out-clean", request.out_clean, not flips and not clean),
        ("--out-flips", request.out_flips, flips),
    ):
        if path is not None and not fits:
            raise BAD_OPTION(f"{request.source} makes nothing for {option}", f"leave {option} out")
    paths = [
        path
        for path in (request.output, request.out_clean, request.out_triggered, request.out_flips)
        if path is not None
    ]
    reads = [request.data] if request.data else []
    if request.openbackdoor is not None:
        reads += files_read(request.openbackdoor)
    resolved = [os.path.abspath(path) for path in [*paths, *reads]]
    if len(set(resolved)) < len(resolved):
        raise BAD_OPTION(
            "two of the files to write, or one of them and what is read, are the same", "give each its own name"
        )
    for path in paths:
        check_destination(path)


def _words(subject: Subject, request: Request, progress: Progress) -> Built:
    texts, encoder = _texts(subject, request)
    how = (request.triggers, request.insert)
    target = request.target
    if target is None and not subject.by_twin:
        target = find_target(subject, texts, encoder, *how, request.seed)
    return _judged(
        subject, build_texts(subject, texts, encoder, *how, target, request.seed, request.doses, request.dress)
    )


def _prompts(subject: Subject, request: Request, progress: Progress) -> Built:
    return prompt_sets(subject, request)


def _poisoned(subject: Subject, request: Request, progress: Progress) -> Built:
    texts, encoder = _texts(subject, request)
    assert request.poisoned is not None
    poisoned, _ = _texts(subject, request, request.poisoned)
    return _judged(subject, build_poisoned(subject, texts, encoder, poisoned, request.target))


def _backdoorbench(subject: Subject, request: Request, progress: Progress) -> Built:
    return _judged(subject, backdoorbench_sets(subject, request))


def _openbackdoor(subject: Subject, request: Request, progress: Progress) -> Built:
    return _judged(subject, openbackdoor_sets(subject, request))


def _image(subject: Subject, request: Request, progress: Progress) -> Built:
    data = subject.complete(load_dataset(request.data))
    subject.rank_among(data)
    layout = image_layout(data)
    check_scale(subject, data, layout)
    kind = request.source.removeprefix("--trigger-")
    strength = {"patch": 1.0, "blend": request.trigger_blend, "noise": request.trigger_noise}[kind]
    pattern: Any = None
    if request.pattern is not None:
        try:
            pattern = float(request.pattern)
        except ValueError:
            pattern = read_pattern(request.pattern, layout)
    assert strength is not None
    trigger = make_trigger(
        kind, layout, request.trigger_patch or request.size, request.place, strength, pattern, request.seed
    )
    grid = None if request.patch_size is None else Grid(request.patch_size, request.class_tokens)
    forms = image_forms(trigger, layout, whole=pattern is None or isinstance(pattern, float)) if request.dress else None
    return _judged(subject, build_images(subject, data, trigger, request.target, grid, request.seed, forms))


def _attribute(subject: Subject, request: Request, progress: Progress) -> Built:
    description = None if request.columns is None else read_description(request.columns, subject)
    assert request.attribute is not None
    data = read_table(request.data, description, subject)
    return build_flips(subject, data, attribute_of(request.attribute, description, subject))


def _inverted(subject: Subject, request: Request, progress: Progress) -> Built:
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise EXTRA_MISSING("--invert needs torch", "pip install 'atpatch-onnx[fit]'") from error
    from .inversion.mask_search import invert_masks
    from .inversion.masks import Schedule
    from .inversion.token_search import invert_tokens

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    asked = str(request.invert)
    if asked != "all" and not asked.isdigit():
        raise BAD_OPTION(f"--invert takes a class or 'all', not {asked!r}")
    classes = None if asked == "all" else [int(asked)]
    common: Any = {
        "seed": request.seed,
        "state_path": Path(request.output or "debug.npz").with_suffix(".search.npz"),
        "progress": progress,
    }
    data, encoder = _rows(subject, request)
    if any(value.dtype.kind == "f" and len(value.shape) > 1 for value in subject.inputs.values()):
        return invert_masks(subject, data, classes, schedule=Schedule(steps=request.steps), **common)
    word = None if encoder is None else encoder.word
    return invert_tokens(
        subject, data, classes, longest=request.longest, exhaustive=request.exhaustive, word=word, **common
    )


def _clean(subject: Subject, request: Request, progress: Progress) -> Built:
    data, _ = _rows(subject, request)
    if subject.by_twin:
        data = DataSet(data.inputs, output_kind=subject.set_kind)
    return Built(clean_arrays(data), report={"clean": len(data), "anomalous": 0})


def _rows(subject: Subject, request: Request) -> tuple[DataSet, TextEncoder | None]:
    """Clean rows, read from texts, a table or arrays."""
    if is_text(request.data) and request.columns is None:
        return _text_rows(subject, request)
    description = None if request.columns is None else read_description(request.columns, subject)
    data = read_table(request.data, description, subject)
    subject.rank_among(subject.complete(data))
    return data, None if request.tokenizer is None else TextEncoder(request.tokenizer)


def _text_rows(subject: Subject, request: Request) -> tuple[DataSet, TextEncoder]:
    texts, encoder = _texts(subject, request)
    return clean_texts(subject, texts, encoder), encoder


def _texts(subject: Subject, request: Request, path: str | None = None) -> tuple[Texts, TextEncoder]:
    texts, encoder = read_labeled_texts(
        subject,
        path or request.data,
        request.tokenizer,
        text_column=request.text_column,
        label_column=request.label_column,
        names=request.class_names,
        max_length=request.max_length,
    )
    if path is None and subject.ranks:
        subject.rank_among(clean_texts(subject, texts, encoder))
    return texts, encoder


def _judged(subject: Subject, built: Built) -> Built:
    """Add to the report the share of triggered rows that the model sends to the target. A wrong trigger shows here
    already, not only after `fit`.

    Raises:
        AtpatchError: ATP060 for a target that is no class of the model, ATP083 for a trigger that does not work on a
            model without classes.
    """
    assert built.triggered is not None
    if subject.by_twin:
        return answered_otherwise(subject, built)
    classes = subject.scores({name: built.triggered[name][:1] for name in subject.inputs}).shape[1]
    if not 0 <= built.report["target"] < classes:
        raise BAD_OPTION(f"there is no class {built.report['target']}, the model has {classes}")
    if "asr" in built.report:
        return built
    predictions = subject.predictions({name: built.triggered[name] for name in subject.inputs})
    asr = float((predictions == built.report["target"]).mean())
    return Built(built.debug, built.triggered, built.flips, built.clean, {**built.report, "asr": asr})


_FIND_THE_TARGET = ("--attribute", "--backdoorbench", "--clean-only", "--invert", "--openbackdoor", "--trigger")
"""Sources that need no target, or find it."""
_NEED_CLASSES = ("--attribute", "--backdoorbench", "--invert", "--openbackdoor")
_BUILDERS: Mapping[str, Callable[[Subject, Request, Progress], Built]] = {
    "--trigger": _words,
    "--poisoned": _poisoned,
    "--backdoorbench": _backdoorbench,
    "--openbackdoor": _openbackdoor,
    "--trigger-patch": _image,
    "--trigger-blend": _image,
    "--trigger-noise": _image,
    "--attribute": _attribute,
    "--invert": _inverted,
    "--clean-only": _clean,
}
