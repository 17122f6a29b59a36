"""The settings of a server from the options of `atpatch-onnx serve`."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..inference.output_kinds import CLASSES

if TYPE_CHECKING:
    from ..serve.settings import Settings

__all__ = ["check_options", "make_settings", "model_files", "show_states"]

_MIB = 2**20
_BODIES = 8
"""How many request bodies of the largest size may be in memory at once."""


def model_files(original: str, patched: str | None, calibrating: bool, stack: ExitStack) -> tuple[str, str | None]:
    """Both model files: folders stand for the model in them. Of a patched model that is given as the only one, the
    original is restored into a folder that goes when `stack` is closed.
    """
    from rewriters.editing.patcher import is_patched
    from rewriters.model.forms import read

    from .sources import model_path

    original = model_path(original)
    if patched is not None:
        return original, model_path(patched)
    if calibrating or not is_patched(read(original).proto):
        return original, None
    from ..patching.apply import unpatch
    from ..paths import temporary_folder

    restored = os.path.join(stack.enter_context(temporary_folder()), os.path.basename(original))
    unpatch(original, restored)
    return restored, original


def check_options(patched: str | None, options: dict[str, Any]) -> None:
    """Refuse options that contradict each other."""
    kind = options["output_kind"]
    if options["watch_class"] is not None and kind not in (None, CLASSES):
        raise click.UsageError(f"--watch-class needs a model with classes, not --output-kind {kind}")
    if options["strict_version"] and options["mode"] != "patched":
        raise click.UsageError("--strict-version needs --mode patched")
    if options["on_alarm"] == "refuse":
        if options["mode"] == "original" or options["calibrate"] is not None:
            raise click.UsageError("--on-alarm refuse needs a patched model that raises alarms")
        if options["fallback"] == "original":
            raise click.UsageError("--on-alarm refuse and --fallback original: a run that fails would not be refused")
    if options["calibrate"] is None:
        if patched is None:
            raise click.UsageError("Missing argument 'PATCHED': give it, or --calibrate N.")
        if options["save_hotfix"] is not None:
            raise click.UsageError("--save-hotfix needs --calibrate")
    elif options["verify_key"] is not None:
        raise click.UsageError("--verify-key and --calibrate: a hotfix that the server fits has no signature")
    elif patched is not None or options["mode"] != "shadow":
        raise click.UsageError("--calibrate needs --mode shadow, and no PATCHED")


def show_states() -> None:
    """Let the states of a calibration be seen on stderr, as warnings are."""
    logger = logging.getLogger("atpatch_onnx.serve.calibration")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.propagate = False


def make_settings(original: str, patched: str | None, options: dict[str, Any], *, restored: bool) -> Settings:
    """The server's settings from the command line's options, in the units of the API.

    Args:
        restored: the original was made from the patched model.
    """
    from rewriters.model.regular_files import check_destination, check_log

    from ..serve.limits import Limits
    from ..serve.settings import Settings

    most_bytes = options.pop("max_body") * _MIB
    limits = Limits(
        body=most_bytes,
        buffered=_BODIES * most_bytes,
        batch=options.pop("max_batch"),
        sequence=options.pop("max_sequence"),
        in_flight=options.pop("max_in_flight"),
        head_seconds=options["client_timeout"],
        body_seconds=options.pop("client_timeout"),
        answer_seconds=options.pop("answer_timeout"),
        non_finite=options.pop("allow_non_finite"),
    )
    kill_file, log, saved, key = (options.pop(name) for name in ("kill_file", "log", "save_hotfix", "verify_key"))
    workers = options.pop("workers") or max(1, (os.cpu_count() or 1) // options["threads"])
    return Settings(
        original=Path(original),
        patched=None if patched is None else Path(patched),
        calibrate=options.pop("calibrate") or 0,
        save_hotfix=None if saved is None else check_destination(saved),
        verify_key=None if key is None else Path(key),
        restored=restored,
        name=options.pop("name") or Path(original).stem,
        hot_controls=options.pop("hot_threshold"),
        watched_class=options.pop("watch_class"),
        kill_file=None if kill_file is None else Path(kill_file),
        log=None if log is None else check_log(log),
        log_bytes=options.pop("log_size") * 1_000_000,
        log_backups=options.pop("log_keep"),
        hosts=tuple(name.lower().rstrip(".") for name in options.pop("allow_host")),
        batch_rows=options.pop("batch"),
        batch_delay=options.pop("batch_delay") / 1000,
        workers=workers,
        limits=limits,
        **options,
    )
