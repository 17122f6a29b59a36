"""`atpatch-onnx deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..deploy.options import RayOptions
from .options import group, json_output, link_data, options_of
from .rendering import emit_json, note

if TYPE_CHECKING:
    from ..deploy import Deployed

# The arguments that all 'deploy' commands share.
_shared = group(
    click.argument("original", metavar="ORIGINAL", type=click.Path()),
    click.argument("patched", metavar="PATCHED", type=click.Path()),
    click.argument("folder", metavar="DIR", type=click.Path()),
    click.option("--name", help="Name of the model for clients; by default that of ORIGINAL's file."),
    json_output,
    link_data,
)


def _name(name: str | None, original: str) -> str:
    return name or Path(original).stem.lower().replace("_", "-").replace(".", "-")


@click.group()
def deploy() -> None:
    """Write the files that another serving engine needs for both models, and say how to go on.

    The folder must be new, empty, or written by the same command. Nothing is written outside it.

    \b
    Example:
      atpatch-onnx deploy triton model.onnx model.patched.onnx repository
    """


@deploy.command()
@_shared
@click.option(
    "--max-batch",
    type=click.IntRange(0),
    default=32,
    show_default=True,
    help="Most samples that Triton may join in one batch.",
)
@click.option(
    "--delay",
    "delay_us",
    type=click.IntRange(0),
    default=2000,
    show_default=True,
    help="Microseconds to wait for more samples.",
)
@click.option("--instances", type=click.IntRange(1), default=1, show_default=True, help="Number of sessions per arm.")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of onnxruntime in one run."
)
@click.option("--gpu", is_flag=True, help="Run the sessions on a GPU.")
def triton(
    original: str, patched: str, folder: str, name: str | None, link_data: bool, as_json: bool, **options: Any
) -> None:
    """Write a Triton model repository with both models.

    \b
    Example:
      atpatch-onnx deploy triton model.onnx model.patched.onnx repository
    """
    from ..deploy import deploy_triton

    _show(deploy_triton(original, patched, folder, name=_name(name, original), link=link_data, **options), as_json)


@deploy.command()
@_shared
@click.option(
    "--storage",
    required=True,
    metavar="URI",
    help="Where the cluster will find DIR's models, for example gs://bucket/path.",
)
@click.option("--namespace", help="Of Kubernetes.")
@click.option(
    "--percent",
    type=click.IntRange(0, 100),
    default=5,
    show_default=True,
    help="Percent of the requests for the patched model.",
)
@click.option("--replicas", type=click.IntRange(0), default=1, show_default=True, help="Minimum number of pods.")
@click.option("--max-batch", type=click.IntRange(0), default=32, show_default=True, help="Most samples in one batch.")
def kserve(
    original: str, patched: str, folder: str, name: str | None, link_data: bool, as_json: bool, **options: Any
) -> None:
    """Write KServe manifests: the original as a service, and the patched model as its canary.

    \b
    Example:
      atpatch-onnx deploy kserve model.onnx model.patched.onnx out --storage gs://bucket/fraud --percent 5
    """
    from ..deploy import deploy_kserve

    _show(deploy_kserve(original, patched, folder, name=_name(name, original), link=link_data, **options), as_json)


@deploy.command()
@_shared
@options_of(RayOptions)
def ray(
    original: str, patched: str, folder: str, name: str | None, link_data: bool, as_json: bool, **options: Any
) -> None:
    """Write a Ray Serve configuration that runs 'serve' on many replicas.

    \b
    Example:
      atpatch-onnx deploy ray model.onnx model.patched.onnx out --mode ab --weight 0.05 --replicas 4
    """
    from ..deploy import deploy_ray

    _show(deploy_ray(original, patched, folder, name=_name(name, original), link=link_data, **options), as_json)


def _show(done: Deployed, as_json: bool) -> None:
    if as_json:
        emit_json(done.to_json())
        return
    note(f"{len(done.files)} files in {done.folder}")
    for line in done.notes:
        note(f"note: {line}")
    note("go on with")
    for line in done.commands:
        note(f"  {line}")
