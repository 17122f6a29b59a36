"""`export_model`: load, trace, check against torch, find the sites, put the file in place."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx

from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io
from rewriters.model.atomic import workshop
from rewriters.model.external_data import external_locations
from rewriters.model.regular_files import check_destination

from ..errors import BAD_OPTION, DATA_FILE_EXISTS, EXTRA_MISSING, NO_SUCH_FILE, PARITY_LOST, TASK_UNCLEAR
from .tasks import TASKS

if TYPE_CHECKING:
    from .parity import Parity
    from .subject import Subject

__all__ = ["Exported", "export_model"]

Progress = Callable[[str], None]
"""Called with the name of each step as it begins."""

# Below protobuf's 2 GiB, with room for the graph itself.
_MOST_INSIDE = 1_900_000_000


@dataclass(frozen=True)
class Exported:
    """What `export_model` did.

    Attributes:
        output: file written; data: files with its weights beside it.
        source: what was exported, for people.
        task, exporter, opset, dtype: of the graph; attention is None where a plain module decides itself.
        inputs, outputs: name → shape, dynamic axes by label.
        parity: output → distance from torch.
        tolerance: what the parity was held against.
        sites: ids of the attention sites found; rejected: how many Softmax nodes are none.
        seconds: time taken.
    """

    output: str
    data: tuple[str, ...]
    source: str
    task: str
    exporter: str
    attention: str | None
    opset: int
    dtype: str
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    parity: Mapping[str, Parity]
    tolerance: float
    sites: tuple[str, ...]
    rejected: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The keys that `export --json` promises."""
        keys = (
            "output",
            "source",
            "task",
            "exporter",
            "attention",
            "opset",
            "dtype",
            "tolerance",
            "rejected",
            "seconds",
        )
        return {
            **{key: getattr(self, key) for key in keys},
            "data": list(self.data),
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            "parity": {name: {"difference": p.difference, "scale": p.scale} for name, p in self.parity.items()},
            "sites": list(self.sites),
        }


def export_model(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    task: str | None = None,
    opset: int | None = None,
    attention: Literal["eager", "sdpa"] | None = None,
    exporter: Literal["dynamo", "torchscript"] = "dynamo",
    dtype: Literal["float32", "float16"] = "float32",
    kv_cache: bool = False,
    external_data: bool = False,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Export a torch model, hold the graph against torch, and count its attention sites. On any failure nothing is
    written.

    Args:
        source: folder of a Hugging Face model, hub id, or `package.module:factory` of a plain torch module with example
            inputs.
        output: file to write.
        task: one of `TASKS`; None: from the model's architecture, "tabular" for plain modules.
        opset: None: what the exporter writes natively (dynamo 18, TorchScript 17).
        attention: "eager" (the default) or "sdpa", of Hugging Face models.
        exporter: "dynamo" (torch.export) or "torchscript" (tracing).
        dtype: of weights and activations, for Hugging Face models.
        kv_cache: causal language models take and return the keys and values of earlier tokens.
        external_data: keep weights in `<output>.data`; models beyond 2 GB always do.
        tolerance: largest difference from torch, relative above a scale of 1; None: 1e-4 in float32, 1e-2 in float16.
        progress: called as each step begins.

    Raises:
        AtpatchError: ATP018-ATP020 (output), ATP050-ATP052 (extras, runtime), ATP060 (options), ATP070-ATP073 (see
            `explain`).
    """
    started = time.perf_counter()
    begin = progress or (lambda step: None)
    destination = _destination(Path(output))
    _require_extra(os.fspath(source))
    begin("loading")
    from . import parity, tracing
    from .quiet import quiet

    if tolerance is not None and not tolerance >= 0:
        raise BAD_OPTION(f"a tolerance of {tolerance} makes no sense")
    if opset is not None and opset > onnx.defs.onnx_opset_version():
        raise BAD_OPTION(f"the installed onnx knows opsets up to {onnx.defs.onnx_opset_version()}, not {opset}")
    allowed = parity.TOLERANCES[dtype] if tolerance is None else tolerance
    with quiet():
        subject, name = _load(os.fspath(source), task, attention, dtype, kv_cache)
    external = external_data or subject.weight_bytes > _MOST_INSIDE
    data = f"{destination.name}.data"
    if external and (destination.parent / data).exists():
        raise DATA_FILE_EXISTS(
            f"{destination.parent / data} exists", "remove it together with its model, or give another output"
        )
    with workshop(destination.parent) as folder:
        draft = folder / destination.name
        begin("tracing")
        with quiet():
            axes = tracing.output_axes(subject)
        model = tracing.export_graph(subject, draft, exporter, opset or tracing.OPSETS[exporter], axes, external)
        model_io.save(model, draft)
        begin("comparing with torch")
        with quiet():
            found = parity.compare(subject, draft)
        far = {output: p for output, p in found.items() if not p.within(allowed)}
        if far:
            listed = ", ".join(
                f"{output} by {p.difference:.2g} (values up to {p.scale:.2g})" for output, p in far.items()
            )
            raise PARITY_LOST(f"the graph differs from torch: {listed}; allowed is {allowed:g}")
        begin("looking for attention")
        sites, rejected = find_sites(model)
        # Linked, not copied: the first name is gone in a moment.
        model_io.save(model, destination, folder, link_data=True)
    return Exported(
        output=str(destination),
        data=external_locations(model),
        source=subject.description,
        task=name,
        exporter=exporter,
        attention=subject.attention,
        opset=model_io.default_opset(model) or 0,
        dtype=dtype,
        inputs=_shapes(model.graph.input),
        outputs=_shapes(model.graph.output),
        parity=found,
        tolerance=allowed,
        sites=tuple(site.id for site in sites),
        rejected=len(rejected),
        seconds=round(time.perf_counter() - started, 3),
    )


def _load(source: str, task: str | None, attention: str | None, dtype: str, kv_cache: bool) -> tuple[Subject, str]:
    if task is not None and task not in TASKS:
        raise TASK_UNCLEAR(f"there is no task {task!r}", f"name one of {', '.join(TASKS)}")
    if _is_factory(source):
        from . import factory

        if kv_cache:
            raise BAD_OPTION(
                "--kv-cache is for Hugging Face models", "let the factory's module take and return the cache"
            )
        if attention is not None:
            raise BAD_OPTION(
                "--attention chooses among the implementations of a Hugging Face model",
                "leave it out for a plain module",
            )
        return factory.load_subject(source, task, dtype)
    if source.startswith((".", "/", "~")) and not Path(source).is_dir():
        raise NO_SUCH_FILE(
            f"{source} is no folder", "give the folder of a Hugging Face model, a hub id, or package.module:factory"
        )
    from . import transformers_models

    return transformers_models.load_subject(source, task, attention or "eager", dtype, kv_cache)


def _is_factory(source: str) -> bool:
    module, colon, attribute = source.partition(":")
    return (
        bool(colon)
        and not os.path.exists(source)
        and all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")])
    )


def _require_extra(source: str) -> None:
    # A plain module needs no transformers; only dynamo needs onnxscript, but one pip line for all is easier to follow.
    for module in ("torch", "onnxscript", *(() if _is_factory(source) else ("transformers",))):
        try:
            found = find_spec(module)
        except ValueError:  # something else has its name in sys.modules
            found = None
        if found is None:
            raise EXTRA_MISSING(f"export needs {module}", "pip install 'atpatch-onnx[export]'")


def _destination(path: Path) -> Path:
    """Asked before the work rather than after it."""
    return check_destination(path)


def _shapes(values: Any) -> dict[str, tuple[int | str, ...]]:
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
            for dim in value.type.tensor_type.shape.dim
        )
        for value in values
    }
