"""KServe: the original as an InferenceService, and the same service with the patched model as its canary.

1. Both arms are stored under one model name, so that callers change nothing when the split changes or is
   undone.
2. What is stored is a Triton model repository: KServe's runtime for `modelFormat: onnx` with `protocolVersion: v2` is
   Triton.
3. `canary.yaml` is the same object with another storage address and `canaryTrafficPercent`; KServe keeps the last
   revision that had all the traffic, and setting the percentage to 0 goes back to it. KServe splits by request, not by
   unit.
"""

from __future__ import annotations

import os
import re
import shlex
from importlib import import_module
from typing import Any

from ..errors import BAD_OPTION, EXTRA_MISSING, NAME_UNUSABLE
from .folder import Deployed, Folder
from .models import Source, check_name, load_arms
from .triton import repository

__all__ = ["as_yaml", "deploy_kserve", "inference_service"]

RUNTIME = "kserve-tritonserver"
_STORAGE = re.compile(r"(gs|s3|hdfs|webhdfs|pvc|https?)://[\w.:@/~+-]+")


def deploy_kserve(
    original: str | os.PathLike[str],
    patched: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    storage: str,
    name: str = "model",
    namespace: str | None = None,
    percent: int = 5,
    replicas: int = 1,
    max_batch: int = 32,
    link: bool = False,
) -> Deployed:
    """Write both arms and two manifests.

    Args:
        original, patched: model files.
        folder: to write to; new, empty, or written by an earlier run.
        storage: address under which the cluster will find the folder's sub-folders "original" and "patched", for
            example gs://bucket/path.
        name: of the service and of the model in it.
        namespace: of Kubernetes; None: that of the context.
        percent: of the requests for the patched model, in [0, 100].
        replicas: least number of pods.
        max_batch: as for Triton.
        link: hard-link external data instead of copying it.

    Raises:
        AtpatchError: ATP091 for the name or the address, ATP060 for the numbers, ATP051 without PyYAML, and those of
            `deploy_triton`.
    """
    if not 0 <= percent <= 100 or replicas < 0 or max_batch < 0:
        raise BAD_OPTION("the percentage must lie in 0 to 100; replicas and batch size cannot be below 0")
    check_name(name)
    if namespace is not None:
        check_name(namespace)
    if not _STORAGE.fullmatch(storage) or ".." in storage:
        raise NAME_UNUSABLE(
            f"{storage!r} is not an address that KServe fetches models from",
            "give --storage, for example gs://bucket/path",
        )
    base = storage.rstrip("/")
    texts = {
        "service.yaml": as_yaml(inference_service(name, f"{base}/original", namespace=namespace, replicas=replicas)),
        "canary.yaml": as_yaml(
            inference_service(name, f"{base}/patched", namespace=namespace, replicas=replicas, percent=percent)
        ),
    }
    models: dict[str, Source] = {}
    for arm, source in zip(("original", "patched"), load_arms(original, patched), strict=True):
        config, path = repository(source, name, max_batch=max_batch)
        texts[f"{arm}/{name}/config.pbtxt"] = config
        models[f"{arm}/{path}"] = source
    written = Folder(folder, "kserve", texts, models, link=link)
    notes = (
        f"copy the folders original and patched to {base} with the tool of your storage before the first command",
        "canaries need KServe's serverless mode (Knative); the split is by request, so units see both arms",
    )
    return Deployed(written.path, written.files, notes, _commands(os.fspath(written.path), name, namespace))


def inference_service(
    name: str, storage: str, *, namespace: str | None = None, replicas: int = 1, percent: int | None = None
) -> dict[str, Any]:
    """An InferenceService of serving.kserve.io/v1beta1 as plain data; `percent` makes it a canary."""
    metadata: dict[str, Any] = {"name": name}
    if namespace is not None:
        metadata["namespace"] = namespace
    # Lets each arm be called by a URL of its own as well.
    metadata["annotations"] = {"serving.kserve.io/enable-tag-routing": "true"}
    predictor: dict[str, Any] = {"minReplicas": replicas}
    if percent is not None:
        predictor["canaryTrafficPercent"] = percent
    predictor["model"] = {
        "modelFormat": {"name": "onnx"},
        "protocolVersion": "v2",
        "runtime": RUNTIME,
        "storageUri": storage,
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"predictor": predictor},
    }


def as_yaml(content: dict[str, Any]) -> str:
    """Raises AtpatchError: ATP051 without PyYAML."""
    try:
        yaml: Any = import_module("yaml")  # its types are a package of their own
    except ImportError as error:
        raise EXTRA_MISSING("manifests need PyYAML", "pip install 'atpatch-onnx[deploy]'") from error
    text: str = yaml.safe_dump(content, sort_keys=False)
    return text


def _commands(folder: str, name: str, namespace: str | None) -> tuple[str, ...]:
    where = f" -n {namespace}" if namespace else ""
    manifests = shlex.quote(folder)
    patch = f"kubectl patch inferenceservice {name}{where} --type=merge -p"
    return (
        (
            f"kubectl apply{where} -f {manifests}/service.yaml && kubectl wait{where} --for=condition=Ready"
            f" inferenceservice/{name}"
        ),
        f"kubectl apply{where} -f {manifests}/canary.yaml",
        f"""{patch} '{{"spec":{{"predictor":{{"canaryTrafficPercent":0}}}}}}'  # undo the canary""",
        f"""{patch} '{{"spec":{{"predictor":{{"canaryTrafficPercent":100}}}}}}'  # all traffic to the patched model""",
    )
