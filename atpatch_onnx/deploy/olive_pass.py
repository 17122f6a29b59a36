"""A patch as a pass of Microsoft Olive: `{"type": "AtPatch", "hotfix": "model.hotfix"}` in a workflow.

Olive finds a pass in its package configuration. `package_config()` is Olive's own one with this pass in it:

    from olive.workflows import run

    from atpatch_onnx.deploy.olive_pass import package_config

    run("workflow.json", package_config=package_config())

For `olive run --package-config FILE`, `python -m atpatch_onnx.deploy.olive_pass > FILE` writes it. Nothing else here
imports this module, since it needs Olive (`pip install olive-ai`).
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam
from olive.resource_path import LocalFile, LocalFolder

from rewriters.model.regular_files import is_regular

from ..errors import BAD_OPTION
from ..hotfix.options import PatchOptions
from ..options import explanations
from ..patching.apply import patch
from ..paths import sha256_of

__all__ = ["AtPatch", "package_config"]

MODULE = "atpatch_onnx.deploy.olive_pass"
PATHS = ("hotfix", "detector_model", "calibrate", "verify_key")
LEFT_OUT = ("save_hotfix",)
"""A pass writes its model and nothing else."""
DIGESTS = {"digests": ((), "of the files that are read; the pass finds them itself")}


class AtPatch(Pass):  # type: ignore[misc]  # Olive has no types
    """Patches an ONNX model. Its parameters are the fields of `PatchOptions`.

    Raises:
        AtpatchError: ATP060 for a model that is not ONNX, and those of `patch`.
    """

    def __init__(self, accelerator_spec: Any, config: Any, host_device: Any = None) -> None:
        super().__init__(accelerator_spec, config, host_device)
        # Olive's cache knows files by their names; so it sees when one has changed.
        paths = (getattr(config, name) for name in PATHS)
        files = [Path(path) for path in paths if path is not None and is_regular(Path(path))]
        config.digests = [sha256_of(path) for path in files]

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, Any]:
        texts = explanations(PatchOptions)
        options = {one.name: (one.default, texts.get(one.name, "")) for one in fields(PatchOptions)}
        return {
            name: PassConfigParam(type_=Any, default_value=default, description=text)
            for name, (default, text) in (options | DIGESTS).items()
            if name not in LEFT_OUT
        }

    def _run_for_config(self, model: Any, config: Any, output_model_path: str) -> Any:
        if not isinstance(model, ONNXModelHandler):
            raise BAD_OPTION("AtPatch patches ONNX models only", "put it behind a pass that converts, OnnxConversion")
        output = Path(resolve_onnx_path(output_model_path, Path(model.model_path).name))
        names = {one.name for one in fields(PatchOptions)}
        given = {name: value for name, value in config.model_dump().items() if name in names}
        patch(model.model_path, output, **given)
        alone = len(list(output.parent.iterdir())) == 1
        return ONNXModelHandler(
            model_path=LocalFile({"path": output}) if alone else LocalFolder({"path": output.parent}),
            onnx_file_name=None if alone else output.name,
            inference_settings=model.inference_settings,
        )


def package_config() -> dict[str, Any]:
    """Olive's own package configuration, with this pass in it."""
    found: dict[str, Any] = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text("utf-8"))
    found["passes"]["AtPatch"] = {
        "module_path": f"{MODULE}.AtPatch",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
    }
    return found


if __name__ == "__main__":
    json.dump(package_config(), sys.stdout, indent=2)
