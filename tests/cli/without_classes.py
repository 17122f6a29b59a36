"""What the journeys of models without classes share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..conftest import Run

__all__ = ["fitted_on_clean_texts"]


def fitted_on_clean_texts(atpatch: Callable[..., Run], folder: Path, kind: tuple[str, ...], hotfix: Path) -> Any:
    """The JSON of a fit for which no trigger is known."""
    fitted = atpatch(
        "fit", folder / "model.onnx", "--clean", folder / "dev.tsv", "--tokenizer", folder, *kind, "-o", hotfix,
        "--json",
    )  # fmt: skip
    assert fitted.code == 0, fitted.err
    assert fitted.json["detector"] == "oneclass" and fitted.json["accept"] == "always"
    return fitted.json
