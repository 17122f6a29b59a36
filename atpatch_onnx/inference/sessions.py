"""onnxruntime sessions, with clear errors where onnxruntime is missing or refuses the model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rewriters.model.external_data import external_locations
from rewriters.model.forms import Model, read
from rewriters.model.regular_files import check_source

from ..errors import RUNTIME_MISSING, RUNTIME_REFUSES, TOO_LARGE

__all__ = ["providers", "session"]

# Session option: where the external data of a model given as bytes lies.
_DATA_FOLDER = "session.model_external_initializers_file_folder_path"


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise RUNTIME_MISSING("running a model needs onnxruntime") from error
    module: ModuleType = onnxruntime
    return module


def providers() -> tuple[str, ...]:
    """Execution providers of the installed onnxruntime.

    Returns:
        their names, best first.

    Raises:
        AtpatchError: ATP050 without onnxruntime.
    """
    return tuple(_onnxruntime().get_available_providers())


def session(
    model: Model,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    optimize: bool = True,
    folder: str | os.PathLike[str] | None = None,
) -> Any:
    """A session of onnxruntime on a model, without memory patterns: a pattern is one block that a request keeps to its
    end, so a second pass needs another one beside it.

    Args:
        model: path of a model file, `onnx.ModelProto` without external data loaded, or `onnx_ir.Model`.
        providers: execution providers in order of preference; None: the CPU provider.
        threads: intra-op threads; None: onnxruntime's choice.
        optimize: False turns all graph optimizations off.
        folder: where the external data of a graph lies; None: where an `onnx_ir.Model` says, the working directory of a
            `ModelProto`.

    Returns:
        an `onnxruntime.InferenceSession`.

    Raises:
        AtpatchError: ATP050 without onnxruntime, ATP052 where it refuses the model or a provider, ATP020 for a
            `ModelProto` beyond 2 GiB.
    """
    ort = _onnxruntime()
    chosen = list(providers or ["CPUExecutionProvider"])
    lacking = [name for name in chosen if name not in ort.get_available_providers()]
    if lacking:
        raise RUNTIME_REFUSES(
            f"this onnxruntime has no {', '.join(lacking)}; it has {', '.join(ort.get_available_providers())}",
            "pip install 'atpatch-onnx[gpu]' for CUDA, in an environment without the CPU build",
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; warnings about unused initializers are of no use to anyone here
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source: str | bytes
    if not isinstance(model, (str, os.PathLike)):
        loaded = read(model)
        if external_locations(loaded.proto):
            options.add_session_config_entry(_DATA_FOLDER, str(Path(folder or loaded.folder).resolve()))
        try:
            source = loaded.proto.SerializeToString()
        except Exception as error:  # protobuf's own exception class differs between its builds
            raise TOO_LARGE(f"the model cannot be serialized: {error}") from error
    else:
        source = os.fspath(check_source(model))
    try:
        return ort.InferenceSession(source, options, providers=chosen)
    except Exception as error:  # onnxruntime's exception classes have no common base class
        raise RUNTIME_REFUSES(" ".join(str(error).split())[:400]) from error
