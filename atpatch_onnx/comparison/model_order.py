"""Whether the models of a comparison can be read, and are given in the right order."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

from rewriters.editing.patcher import is_patched
from rewriters.model.forms import Loaded, Model, read

from ..errors import BAD_OPTION
from .graph_runs import ORIGINAL, PATCHED

__all__ = ["read_models"]


def read_models(models: Mapping[str, Model]) -> dict[str, Loaded]:
    """All models, read before any of them is run.

    Args:
        models: `ORIGINAL`, `PATCHED` and further ones by name.

    Raises:
        AtpatchError: ATP001-ATP005 for a model that cannot be used, ATP060 where the first one has the stamp of a patch
            and the second one has not.
    """
    loaded = {name: read(model) for name, model in models.items()}
    if is_patched(loaded[ORIGINAL].proto) and not is_patched(loaded[PATCHED].proto):
        first, second = (_name(models[name], name) for name in (ORIGINAL, PATCHED))
        raise BAD_OPTION(
            f"{first} is patched and {second} is not: the original comes first",
            f"atpatch-onnx compare {second} {first}",
        )
    return loaded


def _name(model: Model, name: str) -> str:
    return shlex.quote(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else name
