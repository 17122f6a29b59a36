"""A Triton model repository that serves both arms (layout and fields: Triton's user guide, "Model Repository" and
"Model Configuration").

1. Two model names, `NAME` and `NAME-patched`, each with version 1: two versions of one model would hide the original,
   because Triton serves only the latest one by default.
2. A model with external data is a folder named model.onnx, with the model and its data inside.
3. Where the first dimension of all inputs and outputs is open, Triton may batch: it is left out of `dims` then.
4. The patch's runtime controls have defaults in the graph and are no inputs for Triton; opset and IR version stay what
   they are.
"""

from __future__ import annotations

import os
import shlex
from pathlib import PurePosixPath
from typing import Any

from ..errors import BAD_OPTION
from ..serve.tensors import TensorSpec
from .folder import Deployed, Folder
from .model_config import KINDS, config_text, model_config_class
from .models import Source, check_name, load_arms

__all__ = ["PATCHED_SUFFIX", "deploy_triton", "repository", "triton_config"]

PATCHED_SUFFIX = "-patched"
VERSION = 1


def deploy_triton(
    original: str | os.PathLike[str],
    patched: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    name: str = "model",
    max_batch: int = 32,
    delay_us: int = 2000,
    instances: int = 1,
    threads: int = 1,
    gpu: bool = False,
    link: bool = False,
) -> Deployed:
    """Write a model repository.

    Args:
        original, patched: model files.
        folder: model repository to write; new, empty, or written by an earlier run.
        name: of the original in Triton; the patched one gets a suffix.
        max_batch: samples that Triton may put into one batch; 0: none. Ignored where the graph has no open first
            dimension.
        delay_us: microseconds that a request may wait for others to share its batch.
        instances: sessions of each arm.
        threads: onnxruntime's threads within a run.
        gpu: sessions on a GPU instead of the CPU.
        link: hard-link external data instead of copying it.

    Raises:
        AtpatchError: ATP090 and ATP019 for the folder, ATP091 for the name, ATP075 and ATP076 for the models, ATP060
            for the numbers.
    """
    if max_batch < 0 or delay_us < 0 or instances < 1 or threads < 1:
        raise BAD_OPTION("batch size and delay cannot be below 0, instances and threads not below 1")
    check_name(name)
    settings: dict[str, Any] = {
        "max_batch": max_batch,
        "delay_us": delay_us,
        "instances": instances,
        "threads": threads,
        "gpu": gpu,
    }
    texts: dict[str, str] = {}
    models: dict[str, Source] = {}
    arms = dict(zip((name, name + PATCHED_SUFFIX), load_arms(original, patched), strict=True))
    for model_name, source in arms.items():
        config, path = repository(source, model_name, **settings)
        texts[f"{model_name}/config.pbtxt"] = config
        models[path] = source
    written = Folder(folder, "triton", texts, models, link=link)
    notes = [f"two models, {name} and {name}{PATCHED_SUFFIX}: the caller, or a proxy in front of Triton, chooses"]
    if not all(source.batched for source in arms.values()):
        notes.append("no batching: not every input and output has an open first dimension")
    return Deployed(written.path, written.files, tuple(notes), _commands(os.fspath(written.path), name))


def repository(source: Source, name: str, **settings: Any) -> tuple[str, str]:
    """The config.pbtxt of one model, and where its model file goes in the repository."""
    path = PurePosixPath(name, str(VERSION), "model.onnx")
    return config_text(triton_config(source, name, **settings)), str(path / "model.onnx" if source.data else path)


def triton_config(
    source: Source,
    name: str,
    *,
    max_batch: int = 32,
    delay_us: int = 2000,
    instances: int = 1,
    threads: int = 1,
    gpu: bool = False,
) -> Any:
    """The message `inference.ModelConfig` of one model; arguments as in `deploy_triton`."""
    batched = max_batch > 0 and source.batched
    config = model_config_class()(name=name, backend="onnxruntime", max_batch_size=max_batch if batched else 0)
    config.version_policy.specific.versions.append(VERSION)
    config.default_model_filename = "model.onnx"
    for specs, values in ((source.inputs, config.input), (source.outputs, config.output)):
        for spec in specs:
            _describe(values.add(), spec, batched)
    config.instance_group.add(count=instances, kind=KINDS.index("KIND_GPU" if gpu else "KIND_CPU"))
    if batched:
        config.dynamic_batching.max_queue_delay_microseconds = delay_us
    config.parameters["intra_op_thread_count"].string_value = str(threads)
    return config


def _describe(value: Any, spec: TensorSpec, batched: bool) -> None:
    value.name = spec.name
    value.data_type = (
        value.DESCRIPTOR.fields_by_name["data_type"]
        .enum_type.values_by_name["TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"]
        .number
    )
    dims = spec.shape[1:] if batched else spec.shape
    # `dims` cannot describe a scalar: it is given as one element with an empty reshape.
    value.dims.extend(dims or (1,))
    if not dims:
        value.reshape.SetInParent()


def _commands(folder: str, name: str) -> tuple[str, ...]:
    repository = shlex.quote(os.path.abspath(folder))
    return (
        f"docker run --rm -p 8000:8000 -p 8001:8001 -p 8002:8002 -v {repository}:/models:ro "
        "nvcr.io/nvidia/tritonserver:VERSION-py3 tritonserver --model-repository=/models",
        f"curl -s localhost:8000/v2/models/{name}{PATCHED_SUFFIX}/config",
        f"curl -s localhost:8002/metrics | grep 'nv_inference_.*model=\"{name}'",
    )
