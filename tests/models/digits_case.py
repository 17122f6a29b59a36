"""The committed demo victim in the form of a built victim: half of its clean test digits become the spare part."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from models.evidence.case import Case
from models.evidence.settings import Setting

SETTING = Setting("digits-vit-badnets", "image", "backdoor", "images", trained=(0,), quick=True)
SOURCE = Path(__file__).parents[2] / "atpatch_onnx" / "demo" / "digits"


def digits_case() -> Case:
    """Fill the victim's folder in the cache, which ATPATCH_CACHE has to name."""
    case = Case(SETTING, 0, threads=1)
    victim = case.victim
    victim.folder.mkdir(parents=True)
    for name in ("model.onnx", "debug.npz"):
        shutil.copyfile(SOURCE / name, victim.file(name))
    clean, triggered = (dict(np.load(SOURCE / f"{name}.npz")) for name in ("clean", "triggered"))
    kept = np.arange(len(clean["labels"])) % 2 == 0
    place = np.cumsum(kept) - 1
    with_twin = kept[triggered["clean_row"]]
    attacked = {name: array if array.ndim == 0 else array[with_twin] for name, array in triggered.items()}
    victim.save_arrays("spare", {name: array[~kept] for name, array in clean.items()})
    victim.save_arrays("clean", {name: array[kept] for name, array in clean.items()})
    victim.save_arrays("triggered", {**attacked, "clean_row": place[attacked["clean_row"]]})
    victim.finish({"cpu_seconds": 120.0})
    return case
