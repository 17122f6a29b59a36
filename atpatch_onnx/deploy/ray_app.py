"""The server as a Ray Serve application: every replica is the whole of it, routing, both arms, fall-back, shadow and
decision log.

Arms are assigned by hash of the unit, so replicas agree without talking to each other, as long as they share
experiment, salt and weight. What may change while they run comes as `user_config`, which Ray hands to all of them:
weight, kill switch, revision. The admin endpoint is left out, as a call to it would reach one replica only.

Needs the extras `ray`, `serve` and `cpu` on every node. Imported by Ray; `deploy_ray` writes the configuration that
names it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ..serve.admin import TOKEN_VARIABLE
from ..serve.app import build_app
from ..serve.engine import Engine
from ..serve.kill_switch import KillSwitch
from ..serve.settings import Settings

__all__ = ["SALT_VARIABLE", "Replica", "application"]

SALT_VARIABLE = "ATPATCH_SALT"
_PATHS = ("original", "patched", "kill_file")


class Replica:
    """One server. Ray makes it, asks it for its ASGI application, and reconfigures it.

    Args:
        arguments: those of `Settings`, as plain data, and `log_folder`: where each replica writes a log of its own;
            None: no log.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        # A token in the environment would open the endpoint.
        os.environ.pop(TOKEN_VARIABLE, None)
        settings: dict[str, Any] = {
            key: Path(value) if key in _PATHS and value is not None else value for key, value in arguments.items()
        }
        folder = settings.pop("log_folder", None)
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            settings["log"] = Path(folder) / f"decisions-{_replica()}.jsonl"
        chosen = Settings(**settings, salt=os.environ.get(SALT_VARIABLE, ""))
        self.engine = Engine(chosen, KillSwitch(chosen.kill_file))

    def __serve_build_asgi_app__(self) -> Any:
        return build_app(self.engine)

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Take over `weight`, `killed` and `revision`; rows of all replicas then carry the same revision."""
        engine = self.engine
        engine.switch.by_admin = bool(config.get("killed", False))
        engine.killed()
        weight = float(config["weight"]) if engine.settings.mode == "ab" else engine.split.weight
        revision = int(config["revision"])
        if revision < 1:
            raise ValueError(f"revision {revision} in user_config: revisions count from 1")
        if (revision, weight) != (engine.revision, engine.split.weight):
            engine.revision = revision - 1
            engine.revise("reconfigured", weight=weight)


def _replica() -> str:
    name: str = import_module("ray.serve").get_replica_context().replica_id.unique_id
    return name


def application(arguments: Mapping[str, Any]) -> Any:
    """Ray Serve's application builder: `import_path: atpatch_onnx.deploy.ray_app:application`."""
    serve = import_module("ray.serve")
    return serve.deployment(name="atpatch")(serve.ingress()(Replica)).bind(dict(arguments))
