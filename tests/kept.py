"""Files that tests make once: other workers and later runs find them in a cache."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["EXPORTER_SOURCES", "PACKAGE_SOURCES", "cache_folder", "kept", "recipe"]

_ROOT = Path(__file__).parents[1]
PACKAGE_SOURCES = (_ROOT / "atpatch_onnx", _ROOT / "rewriters")
"""All that is installed."""
EXPORTER_SOURCES = (
    _ROOT / "atpatch_onnx" / "exporters",
    _ROOT / "atpatch_onnx" / "inference" / "sessions.py",
    _ROOT / "atpatch_onnx" / "inspection" / "folders.py",
    _ROOT / "rewriters" / "model",
)
"""All that writes an export, or checks it before it is written."""
_PACKAGES = (
    *("torch", "transformers", "onnxscript", "onnx", "onnx-ir", "optimum-onnx", "onnxruntime-genai"),
    *("onnxruntime", "numpy", "scipy"),
)


def cache_folder() -> Path:
    """The folder of all that is kept."""
    return Path(os.environ.get("ATPATCH_TEST_CACHE") or Path(__file__).parent / ".cache")


@functools.cache
def recipe(*sources: str | Path) -> str:
    """Changes when a file does, one of a folder's Python files, or the version of a package that makes what is kept."""
    digest = hashlib.sha256()
    for source in map(Path, sources):
        for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            digest.update(file.read_bytes())
    for package in _PACKAGES:
        try:
            digest.update(f"{package} {version(package)}".encode())
        except PackageNotFoundError:
            digest.update(f"no {package}".encode())
    return digest.hexdigest()[:12]


def kept(name: str, make: Callable[[Path], object]) -> Path:
    """The file or folder of this name in the cache; where it is not there yet, `make` writes it. Do not write to it.

    The name has to tell all that the content depends on.
    """
    path = cache_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (cache_folder() / ".gitignore").write_text("*\n")
    if not path.exists():
        # One worker makes it, the others wait: it costs seconds of processor time.
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                partial = path.with_name(f"{path.name}.partial")
                shutil.rmtree(partial, ignore_errors=True)  # of a run that was ended
                make(partial)
                partial.replace(path)
    return path
