"""Whether the models of a comparison can be read, and are given in the right order."""

from __future__ import annotations

import os
from collections.abc import Mapping

from rewriters.editing.patcher import is_patched
from rewriters.model.forms import Loaded, Model

from ..inspection.encoder_decoder import read_answering
from ..inspection.model_order import refuse_swapped
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
    loaded = {name: read_answering(model) for name, model in models.items()}
    refuse_swapped(
        (_name(models, ORIGINAL), _name(models, PATCHED)),
        (is_patched(loaded[ORIGINAL].proto), is_patched(loaded[PATCHED].proto)),
        "atpatch-onnx compare",
    )
    return loaded


def _name(models: Mapping[str, Model], name: str) -> str:
    model = models[name]
    return os.fspath(model) if isinstance(model, (str, os.PathLike)) else name
