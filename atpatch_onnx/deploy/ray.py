"""Ray Serve: a configuration file that runs this project's own server on as many replicas as are wanted;
see `ray_app`.
"""

from __future__ import annotations

import os
import shlex
from typing import Any

from ..errors import BAD_OPTION
from .folder import Deployed, Folder
from .kserve import as_yaml
from .models import Source, check_name, load_arms

__all__ = ["deploy_ray", "ray_config"]

MODES = ("shadow", "ab", "patched", "original")
IMPORT_PATH = "atpatch_onnx.deploy.ray_app:application"
LOGS, KILL_FILE = "logs", "patch-off"


def deploy_ray(
    original: str | os.PathLike[str],
    patched: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    name: str = "model",
    mode: str = "shadow",
    weight: float = 0.1,
    experiment: str = "atpatch",
    replicas: int = 2,
    threads: int = 1,
    host: str = "127.0.0.1",
    port: int = 8000,
    link: bool = False,
) -> Deployed:
    """Write both models and a Serve configuration.

    Args:
        original, patched: model files.
        folder: to write to; new, empty, or written by an earlier run. Every node must see it under the same path.
        name: of the model, as clients see it.
        mode: "shadow", "ab", "patched" or "original".
        weight: of the patched arm, of mode "ab".
        experiment: part of the split.
        replicas: servers.
        threads: onnxruntime's threads within a run, and CPUs that Ray sets aside for a replica.
        host, port: of Ray's HTTP proxies.
        link: hard-link external data instead of copying it.

    Raises:
        AtpatchError: ATP060 for the numbers, ATP051 without PyYAML, and those of `deploy_triton`.
    """
    if mode not in MODES:
        raise BAD_OPTION(f"mode {mode!r} is none of {', '.join(MODES)}")
    if not 0 <= weight <= 1 or replicas < 1 or threads < 1 or not 1 <= port <= 65535:
        raise BAD_OPTION(
            "the weight must lie in 0 to 1, the port in 1 to 65535; replicas and threads cannot be below 1"
        )
    check_name(name)
    sources = load_arms(original, patched)
    root = os.path.abspath(folder)
    models: dict[str, Source] = {
        f"models/{arm}/model.onnx": source for arm, source in zip(("original", "patched"), sources, strict=True)
    }
    arguments = {"name": name, "mode": mode, "experiment": experiment, "threads": threads}
    config = ray_config(root, arguments, weight=weight, replicas=replicas, threads=threads, host=host, port=port)
    written = Folder(folder, "ray", {"serve.yaml": as_yaml(config)}, models, link=link, used=(LOGS, KILL_FILE))
    notes = (
        f"every node needs pip install 'atpatch-onnx[ray,serve,cpu]' and {root}",
        "set ATPATCH_SALT to the same secret on every node, before Ray is started there",
        "to move the weight: change it in user_config of serve.yaml, raise the revision, deploy again",
        "where the cluster asks for a token (Ray's default), set RAY_AUTH_MODE=token for 'serve deploy'",
    )
    config_path, kill_file, logs = (shlex.quote(os.path.join(root, name)) for name in ("serve.yaml", KILL_FILE, LOGS))
    commands = (
        f"serve run {config_path}  # a cluster of this machine alone",
        f"serve deploy {config_path}  # on a running cluster, and after every change",
        f"curl -s {host}:{port}/v2/models/{name}",
        f"touch {kill_file}  # the original answers everything, at once",
        f"atpatch-onnx ab analyze {logs}/*.jsonl",
    )
    return Deployed(written.path, written.files, notes, commands)


def ray_config(
    root: str, arguments: dict[str, Any], *, weight: float, replicas: int, threads: int, host: str, port: int
) -> dict[str, Any]:
    """A Serve configuration (Ray's `ServeDeploySchema`) as plain data."""
    paths = {arm: os.path.join(root, "models", arm, "model.onnx") for arm in ("original", "patched")}
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "applications": [
            {
                "name": str(arguments["name"]),
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": (
                    paths
                    | arguments
                    | {"kill_file": os.path.join(root, KILL_FILE), "log_folder": os.path.join(root, LOGS)}
                ),
                "deployments": [
                    {
                        "name": "atpatch",
                        "num_replicas": replicas,
                        "ray_actor_options": {"num_cpus": threads},
                        "user_config": {"revision": 1, "weight": weight, "killed": False},
                    }
                ],
            }
        ],
    }
