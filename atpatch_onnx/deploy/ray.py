"""Ray Serve: a configuration file that runs this project's own server on as many replicas as are wanted;
see `ray_app`.
"""

from __future__ import annotations

import os
import shlex
from typing import Any, Unpack

from .folder import Deployed, Folder
from .kserve import as_yaml
from .models import Source, check_name, load_arms
from .options import RayKeywords, RayOptions

__all__ = ["deploy_ray", "ray_config"]

IMPORT_PATH = "atpatch_onnx.deploy.ray_app:application"
LOGS, KILL_FILE = "logs", "patch-off"


def deploy_ray(
    original: str | os.PathLike[str],
    patched: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    name: str = "model",
    link: bool = False,
    **options: Unpack[RayKeywords],
) -> Deployed:
    """Write both models and a Serve configuration.

    Args:
        original, patched: model files.
        folder: to write to; new, empty, or written by an earlier run. Every node must see it under the same path.
        name: of the model, as clients see it.
        link: hard-link external data instead of copying it.
        options: fields of `RayOptions`.

    Raises:
        AtpatchError: ATP060 for the numbers, ATP051 without PyYAML, and those of `deploy_triton`.
    """
    chosen = RayOptions(**options)
    check_name(name)
    sources = load_arms(original, patched)
    root = os.path.abspath(folder)
    models: dict[str, Source] = {
        f"models/{arm}/model.onnx": source for arm, source in zip(("original", "patched"), sources, strict=True)
    }
    config = ray_config(root, name, chosen)
    written = Folder(folder, "ray", {"serve.yaml": as_yaml(config)}, models, link=link, used=(LOGS, KILL_FILE))
    notes = (
        f"every node needs pip install 'atpatch-onnx[ray,serve,cpu]' and {root}",
        "set ATPATCH_SALT to the same secret on every node, before Ray is started there",
        "to move the weight: change it in user_config of serve.yaml, raise the revision, deploy again",
        "where the cluster asks for a token (Ray's default), set RAY_AUTH_MODE=token for 'serve deploy'",
    )
    return Deployed(written.path, written.files, notes, _commands(root, name, chosen))


def _commands(root: str, name: str, options: RayOptions) -> tuple[str, ...]:
    config_path, kill_file, logs = (shlex.quote(os.path.join(root, file)) for file in ("serve.yaml", KILL_FILE, LOGS))
    return (
        f"serve run {config_path}  # a cluster of this machine only",
        f"serve deploy {config_path}  # on a running cluster, and after every change",
        f"curl -s {options.host}:{options.port}/v2/models/{name}",
        f"touch {kill_file}  # the original answers everything, at once",
        f"atpatch-onnx ab analyze {logs}/*.jsonl",
    )


def ray_config(root: str, name: str, options: RayOptions) -> dict[str, Any]:
    """A Serve configuration (Ray's `ServeDeploySchema`) as plain data; `root` is the folder as every node sees it."""
    paths = {arm: os.path.join(root, "models", arm, "model.onnx") for arm in ("original", "patched")}
    serving = {"name": name, "mode": options.mode, "experiment": options.experiment, "threads": options.threads}
    places = {"kill_file": os.path.join(root, KILL_FILE), "log_folder": os.path.join(root, LOGS)}
    deployment = {
        "name": "atpatch",
        "num_replicas": options.replicas,
        "ray_actor_options": {"num_cpus": options.threads},
        "user_config": {"revision": 1, "weight": options.weight, "killed": False},
    }
    application = {
        "name": name,
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": paths | serving | places,
        "deployments": [deployment],
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": options.host, "port": options.port},
        "applications": [application],
    }
