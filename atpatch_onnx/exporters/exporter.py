"""`export`: load, trace, check against torch, find the sites, put the file in place."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import onnx

from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io
from rewriters.model.atomic import workshop
from rewriters.model.external_data import external_locations
from rewriters.model.folders import check_new_folder, new_folder
from rewriters.model.regular_files import check_destination

from ..errors import BAD_OPTION, DATA_FILE_EXISTS, EXTRA_MISSING, NO_SUCH_FILE, PARITY_LOST, TASK_UNCLEAR
from ..inspection.folders import is_folder
from .folders import companions, copy_companions, draft_folder, exported_graphs, is_folder_path
from .options import ExportKeywords, ExportOptions
from .result import Exported, ExportedFile
from .tasks import TASKS

if TYPE_CHECKING:
    from .parity import Parity
    from .subject import Subject

__all__ = ["Exported", "export", "export_model"]

Progress = Callable[[str], None]
"""Called with the name of each step as it begins."""

# Below protobuf's 2 GiB, with room for the graph itself.
_MOST_INSIDE = 1_900_000_000


def export(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    **options: Unpack[ExportKeywords],
) -> Exported:
    """Export a torch model, compare the graph with torch, count its attention sites; a failure writes nothing.

    Args:
        source: folder of a Hugging Face model, hub id, or `package.module:factory` of a plain torch module with example
            inputs.
        output: file to write; or a folder, if it ends with a slash: see `atpatch_onnx.exporters.folders`.
        progress: called as each step begins.
        options: fields of `ExportOptions`.

    Returns:
        what was written, the differences from torch, and the attention sites found.

    Raises:
        AtpatchError: ATP018-ATP020 and ATP025 (output), ATP050-ATP052 (extras, runtime), ATP060 (options),
            ATP070-ATP073 (see `explain`).
    """
    started = time.perf_counter()
    chosen = ExportOptions(**options)
    begin = progress or (lambda step: None)
    if is_folder_path(os.fspath(output)):
        return _export_folder(os.fspath(source), Path(output), chosen, begin, started)
    destination = check_destination(Path(output))  # before the work rather than after it
    _require_extra(os.fspath(source))
    begin("loading")
    from .quiet import quiet

    _check_opset(chosen.opset)
    allowed = _allowed(chosen)
    with quiet():
        subject, name = _load(os.fspath(source), chosen)
    external = _external(subject, destination, chosen)
    with workshop(destination.parent) as folder:
        model, found = _draft(subject, folder / destination.name, chosen, external, allowed, begin)
        begin("looking for attention")
        sites, rejected = find_sites(model)
        model_io.save(model, destination, folder, link_data=True)  # linked, not copied: the first name goes in a moment
    return Exported(
        output=str(destination),
        data=external_locations(model),
        source=subject.description,
        task=name,
        exporter=chosen.exporter,
        attention=subject.attention,
        opset=model_io.default_opset(model) or 0,
        dtype=chosen.dtype,
        inputs=_shapes(model.graph.input),
        outputs=_shapes(model.graph.output),
        parity=found,
        tolerance=allowed,
        sites=tuple(site.id for site in sites),
        rejected=len(rejected),
        seconds=round(time.perf_counter() - started, 3),
    )


def _export_folder(source: str, output: Path, options: ExportOptions, begin: Progress, started: float) -> Exported:
    destination = check_new_folder(output)
    if _is_factory(source):
        raise BAD_OPTION("a folder is for Hugging Face models", "give a file, OUTPUT.onnx, for a plain module")
    _require_extra(source)
    _check_opset(options.opset)
    along = companions(source)
    begin("loading")
    from .quiet import quiet

    with quiet():
        graphs = list(exported_graphs(source, options))
    files: list[ExportedFile] = []
    data: list[str] = []
    with new_folder(destination) as unfinished:
        for file, subject, task in graphs:
            draft = draft_folder(unfinished)
            external = _external(subject, unfinished / file, options)
            model, found = _draft(subject, draft / file, options, external, _allowed(options), begin)
            sites, rejected = find_sites(model)
            model_io.save(model, unfinished / file, draft, link_data=True)
            shutil.rmtree(draft)
            shapes = _shapes(model.graph.input), _shapes(model.graph.output)
            files.append(ExportedFile(file, task, *shapes, found, tuple(site.id for site in sites), len(rejected)))
            data += external_locations(model)
        copy_companions(along, unfinished)
    subject = graphs[0][1]

    def named(one: ExportedFile, name: str) -> str:
        return f"{one.file}:{name}" if len(files) > 1 else name

    return Exported(
        output=str(destination),
        data=tuple(data),
        source=subject.description,
        task=" ".join(dict.fromkeys(one.task for one in files)),
        exporter=options.exporter,
        attention=subject.attention,
        opset=model_io.default_opset(model) or 0,
        dtype=options.dtype,
        inputs={named(one, name): shape for one in files for name, shape in one.inputs.items()},
        outputs={named(one, name): shape for one in files for name, shape in one.outputs.items()},
        parity={named(one, name): found for one in files for name, found in one.parity.items()},
        tolerance=_allowed(options),
        sites=tuple(named(one, site) for one in files for site in one.sites),
        rejected=sum(one.rejected for one in files),
        seconds=round(time.perf_counter() - started, 3),
        files=tuple(files),
        copied=tuple(along),
    )


def _allowed(options: ExportOptions) -> float:
    from . import parity

    return parity.TOLERANCES[options.dtype] if options.tolerance is None else options.tolerance


# The old name, from before functions and commands had the same names.
export_model = export


def _check_opset(opset: int | None) -> None:
    if opset is not None and opset > onnx.defs.onnx_opset_version():
        raise BAD_OPTION(f"the installed onnx knows opsets up to {onnx.defs.onnx_opset_version()}, not {opset}")


def _external(subject: Subject, destination: Path, options: ExportOptions) -> bool:
    """Whether the weights go into a file of their own.

    Raises:
        AtpatchError: the code of `DATA_FILE_EXISTS` where there is one already.
    """
    external = options.external_data or subject.weight_bytes > _MOST_INSIDE
    data = destination.with_name(f"{destination.name}.data")
    if external and data.exists():
        raise DATA_FILE_EXISTS(f"{data} exists", "remove it together with its model, or give another output")
    return external


def _draft(
    subject: Subject, path: Path, options: ExportOptions, external: bool, allowed: float, begin: Progress
) -> tuple[onnx.ModelProto, dict[str, Parity]]:
    """The graph, written to a file of its own, and its difference from torch.

    Raises:
        AtpatchError: ATP073 where that is larger than allowed.
    """
    from . import parity, tracing
    from .quiet import quiet

    begin("tracing")
    with quiet():
        axes = tracing.output_axes(subject)
    opset = options.opset or tracing.OPSETS[options.exporter]
    model = tracing.export_graph(subject, path, options.exporter, opset, axes, external)
    model_io.save(model, path)
    begin("comparing with torch")
    with quiet():
        found = parity.compare(subject, path)
    far = {output: p for output, p in found.items() if not p.within(allowed)}
    if far:
        listed = ", ".join(f"{output} by {p.difference:.2g} (values up to {p.scale:.2g})" for output, p in far.items())
        raise PARITY_LOST(f"the graph differs from torch: {listed}; allowed is {allowed:g}")
    return model, found


def _load(source: str, options: ExportOptions) -> tuple[Subject, str]:
    task, attention = options.task, options.attention
    if task is not None and task not in TASKS:
        raise TASK_UNCLEAR(f"there is no task {task!r}", f"name one of {', '.join(TASKS)}")
    if _is_factory(source):
        from . import factory

        if options.kv_cache:
            raise BAD_OPTION(
                "--kv-cache is for Hugging Face models", "let the factory's module take and return the cache"
            )
        if attention is not None:
            raise BAD_OPTION(
                "--attention chooses among the implementations of a Hugging Face model",
                "leave it out for a plain module",
            )
        return factory.load_subject(source, task, options.dtype)
    if source.startswith((".", "/", "~")) and not is_folder(source):
        raise NO_SUCH_FILE(
            f"{source} is not a folder", "give the folder of a Hugging Face model, a hub id, or package.module:factory"
        )
    from . import transformers_models

    return transformers_models.load_subject(source, task, attention or "eager", options.dtype, options.kv_cache)


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


def _shapes(values: Any) -> dict[str, tuple[int | str, ...]]:
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
            for dim in value.type.tensor_type.shape.dim
        )
        for value in values
    }
