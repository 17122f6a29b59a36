"""What the protocol calls the server, its model and the versions of it: one arm each."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from ..version import __version__
from .arms import ORIGINAL, Arm, ArmName
from .limits import Refusal
from .settings import VERSIONS, Settings

__all__ = ["SERVER", "find_arm", "metadata"]

SERVER = {"name": "atpatch-onnx", "version": __version__}
PLATFORM = "onnx_onnxv1"


def metadata(settings: Settings, arms: Container[ArmName], original: Arm) -> dict[str, Any]:
    """Of the model, as the protocol has it.

    Args:
        arms: names of those that are loaded.
    """
    return {
        "name": settings.name,
        "versions": [version for version, arm in VERSIONS.items() if arm in arms and not _hidden(settings, arm)],
        "platform": PLATFORM,
        "inputs": [spec.to_json() for spec in original.inputs],
        "outputs": [spec.to_json() for spec in original.outputs],
    }


def find_arm(settings: Settings, arms: Container[ArmName], model: str, version: str | None) -> ArmName | None:
    """The arm that a version names, None where none is named.

    Raises: Refusal 404, or 403 for the original under `strict_version`.
    """
    if model != settings.name:
        raise Refusal(404, f"there is no model {model[:100]!r}; there is {settings.name!r}")
    if not version:
        return None
    arm = VERSIONS.get(version)
    if arm is None or arm not in arms:
        raise Refusal(404, f"there is no version {version[:100]!r} of {model!r}")
    if _hidden(settings, arm):
        raise Refusal(403, "version 1 is the original, and this server answers with the patched model; name no version")
    return arm


def _hidden(settings: Settings, arm: ArmName) -> bool:
    return arm == ORIGINAL and settings.strict_version and settings.mode == "patched"
