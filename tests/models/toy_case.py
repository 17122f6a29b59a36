"""The toy text model with its planted word in the form of a built victim."""

from __future__ import annotations

import numpy as np
import onnx

from models.evidence.case import Case
from models.evidence.settings import Setting

from ..toy_backdoor import LENGTH, TARGET, many_clean, toy
from ..toy_encoder import TRIGGER

__all__ = ["toy_case"]

SETTING = Setting("toy-words", "text", "backdoor", "words", trained=(0,))
ROWS = 200


def toy_case() -> Case:
    """Fill the victim's folder in the cache, which ATPATCH_CACHE has to name. Texts leave room for one more token."""
    case, made, rows = Case(SETTING, 0, threads=1), toy(padded=True), many_clean(padded=True)
    case.victim.folder.mkdir(parents=True)
    onnx.save_model(made.model, case.victim.file("model.onnx"))
    short = rows["lengths"] < LENGTH
    sets = {name: rows[name][short] for name in ("input_ids", "attention_mask", "labels")}
    clean, spare = ({name: array[part] for name, array in sets.items()} for part in (slice(ROWS), slice(ROWS, None)))
    attacked = np.flatnonzero(clean["labels"] != TARGET)
    ids = clean["input_ids"][attacked]
    ids[:, 3] = TRIGGER
    case.victim.save_arrays("debug", made.debug)
    case.victim.save_arrays("clean", _cut(clean))
    case.victim.save_arrays("spare", _cut(spare))
    bad = _cut({"input_ids": ids, "attention_mask": clean["attention_mask"][attacked]})
    case.victim.save_arrays("triggered", {**bad, "clean_row": attacked, "target": np.array(TARGET)})
    case.victim.finish({})
    return case


def _cut(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array if array.ndim < 2 else array[:, : LENGTH - 1] for name, array in rows.items()}
