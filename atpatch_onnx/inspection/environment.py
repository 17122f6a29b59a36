"""Finds which packages are installed, and which ones each command lacks."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from ..errors import EXTRA_MISSING, PlanError
from ..inference.sessions import providers
from ..version import __version__

__all__ = ["Examination", "examine", "require"]

# Extra → the packages it brings that commands import.
EXTRAS = {
    "cpu": ("onnxruntime",),
    "gpu": ("onnxruntime-gpu",),
    "export": ("torch", "transformers", "onnxscript"),
    "fit": ("torch", "scipy", "tokenizers", "jinja2"),
    "report": ("jinja2", "matplotlib", "scipy"),
    "deploy": ("PyYAML",),
    "serve": (
        "starlette",
        "uvicorn",
        "httptools",
        *(("uvloop",) if sys.platform != "win32" else ()),
        "prometheus-client",
        "jinja2",
    ),
    "evidence": ("fairlearn", "scikit-learn"),
    "sign": ("model-signing", "pyopenssl"),
    "bom": ("cyclonedx-python-lib",),
    "grpc": ("grpcio",),
    "ray": ("ray",),
}
# What an extra is for, where a command does not need it always.
USES = {
    "cpu": "run models on the CPU (not next to gpu)",
    "gpu": "run models on CUDA (not next to cpu)",
    "export": "export",
    "fit": "fit, debugset, texts",
    "report": "pages with pictures, bench, ab",
    "deploy": "deploy",
    "serve": "serve",
    "evidence": "compare --group, --table, --rivals",
    "sign": "sign, verify, --verify-key",
    "bom": "bom",
    "grpc": "serve --grpc-port",
    "ray": "deploy ray",
}
# Distribution → module, where the names differ.
_MODULES = {
    "onnxruntime-gpu": "onnxruntime",
    "prometheus-client": "prometheus_client",
    "PyYAML": "yaml",
    "scikit-learn": "sklearn",
    "grpcio": "grpc",
    "pyopenssl": "OpenSSL",
    "cyclonedx-python-lib": "cyclonedx",
}
CORE = ("onnx", "onnx-ir", "onnx-graphsurgeon", "numpy", "click", "rich", "safetensors")
# Command → extras it needs. Any build of onnxruntime satisfies "cpu".
NEEDS: dict[str, tuple[str, ...]] = {
    "inspect": (),
    "patch": (),
    "unpatch": (),
    "extract": (),
    "diff": (),
    "explain": (),
    "doctor": (),
    "export": ("cpu", "export"),
    "debugset": ("cpu", "fit"),
    "fit": ("cpu", "fit"),
    "compare": ("cpu", "report"),
    "bench": ("cpu", "report"),
    "demo": ("cpu", "report"),
    "serve": ("cpu", "serve"),
    "ab": ("report",),
    "deploy": ("deploy",),
    "audit": ("cpu", "fit", "report"),
    "sign": ("sign",),
    "verify": ("sign",),
    "bom": ("bom",),
}
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Examination:
    """Installed versions, and which commands they allow.

    Attributes:
        python, platform: of this process.
        packages: package → version, None if it is not installed.
        providers: execution providers of onnxruntime, () without onnxruntime.
        commands: command → packages that it lacks.
        problems: one line each, with advice how to solve it.
        extras: extra → packages of it that are not installed.
    """

    python: str
    platform: str
    packages: Mapping[str, str | None]
    providers: tuple[str, ...]
    commands: Mapping[str, tuple[str, ...]]
    problems: tuple[str, ...]
    extras: Mapping[str, tuple[str, ...]]

    def pip(self, command: str) -> str | None:
        """The pip command that installs what a command lacks, None if it lacks nothing."""
        lacking = self.commands[command]
        extras = [extra for extra in NEEDS[command] if any(package in lacking for package in EXTRAS[extra])]
        return f"pip install 'atpatch-onnx[{','.join(extras)}]'" if extras else None

    def to_json(self) -> dict[str, Any]:
        return {
            "python": self.python,
            "platform": self.platform,
            "packages": dict(self.packages),
            "providers": list(self.providers),
            "commands": {
                name: {"ready": not missing, "missing": list(missing), "pip": self.pip(name)}
                for name, missing in self.commands.items()
            },
            "problems": list(self.problems),
            "extras": {name: list(missing) for name, missing in self.extras.items()},
        }


def examine() -> Examination:
    """Find which packages are installed here, and which ones each command lacks.

    Imports onnxruntime, if it is installed, to read its providers. No other package is imported.

    Returns:
        versions by package, and for each command the packages that it lacks.

    Raises:
        AtpatchError: never; faults of the installation are listed in `problems`.
    """
    names = dict.fromkeys([*CORE, *(package for packages in EXTRAS.values() for package in packages)])
    packages = {"atpatch-onnx": __version__, **{name: _version(name) for name in names}}
    available: tuple[str, ...] = ()
    problems = []
    installed = [name for name in _RUNTIMES if packages[name]]
    if len(installed) > 1:
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: uninstall both, then"
            " install one"
        )
    try:
        available = providers()
    except PlanError as error:
        if installed:
            problems.append(f"{installed[0]} is installed but cannot be imported: {error.__cause__}")
    if packages["onnxruntime-gpu"] and available and "CUDAExecutionProvider" not in available:
        problems.append(
            "onnxruntime-gpu is installed but offers no CUDAExecutionProvider: check the CUDA and cuDNN versions it was"
            " built for"
        )
    have = {name for name, found in packages.items() if found}
    # Any build of onnxruntime counts, even one whose distribution has another name.
    have |= {"onnxruntime"} if available else set()
    commands = {
        command: tuple(dict.fromkeys(package for extra in extras for package in EXTRAS[extra] if package not in have))
        for command, extras in NEEDS.items()
    }
    return Examination(
        platform.python_version(),
        f"{sys.platform} {platform.machine()}",
        packages,
        available,
        commands,
        tuple(problems),
        {extra: tuple(package for package in wanted if package not in have) for extra, wanted in EXTRAS.items()},
    )


def require(what: str, *packages: str) -> None:
    """Refuse before any work is done, where a command would lack a package at its end.

    Args:
        what: the option or command, for the message.
        packages: distributions, as in `EXTRAS`.

    Raises:
        AtpatchError: ATP051 where one cannot be imported.
    """
    lacking = [name for name in packages if find_spec(_MODULES.get(name, name.replace("-", "_"))) is None]
    if lacking:
        extra = next(extra for extra, brought in EXTRAS.items() if set(lacking) <= set(brought))
        raise EXTRA_MISSING(f"{what} needs {' and '.join(lacking)}", f"pip install 'atpatch-onnx[{extra}]'")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
