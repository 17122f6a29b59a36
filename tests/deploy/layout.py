"""The layout of a Triton repository, by Triton's user guide."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from atpatch_onnx.deploy.model_config import model_config_class


def parse(path: Path) -> Any:
    return text_format.Parse(path.read_text("utf-8"), model_config_class()())


def check_layout(repository: Path) -> dict[str, Path]:
    """What "Model Repository" of Triton's user guide asks for; model name → model file.

    Folders of models, each with config.pbtxt and at least one folder named by a version number that does not start with
    0; in it the default model file: a file, or a folder of that name in which the main file bears it too. Files that
    start with a dot are not looked at.
    """
    found = {}
    for folder in repository.iterdir():
        if folder.name.startswith("."):
            continue
        assert folder.is_dir(), f"{folder} is no model"
        config = parse(folder / "config.pbtxt")
        assert config.name == folder.name
        assert config.backend == "onnxruntime"
        versions = [path for path in folder.iterdir() if path.is_dir()]
        assert versions
        served = config.version_policy.specific.versions
        for version in versions:
            assert re.fullmatch(r"[1-9]\d*", version.name)
            model = version / config.default_model_filename
            assert model.exists()
            found[folder.name] = model / model.name if model.is_dir() else model
        assert sorted(served) == sorted(int(version.name) for version in versions)
    return found
