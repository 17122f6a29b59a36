"""Reads a model: facts of the file, its attention sites, and one site cut out as a small model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import onnx
import onnx_ir

from rewriters.editing.patcher import is_patched, stamp, unpatch
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io
from rewriters.model.bodies import walk_bodies
from rewriters.model.external_data import external_locations
from rewriters.model.forms import Graph, Loaded, Model, PathLike, read
from rewriters.model.regular_files import check_destination
from rewriters.sites import Inspection, Rejection, Site

from ..errors import BAD_FILTER, NO_SITE, AtpatchError
from ..paths import refuse_overwriting

__all__ = [
    "Model",
    "count_nodes",
    "extract",
    "extract_site",
    "inspect",
    "inspect_model",
    "no_site",
    "original_of",
    "read_model",
    "select_sites",
]


def inspect(model: Model, include: str | None = None, exclude: str | None = None) -> Inspection:
    """Every Softmax of a model as a `Site` or a `Rejection` with a reason.

    If the model is patched, its original is inspected, and `Inspection.model["patch"]` holds the patch's stamp.

    Args:
        model: path, `onnx.ModelProto`, or `onnx_ir.Model`. Weights in external files are not read.
        include, exclude: regular expressions, searched in a site's id and scope. Other sites are left out.

    Returns:
        facts of the file, the sites, and every other Softmax with the reason why it is not a site.

    Raises:
        AtpatchError: ATP001-ATP005 for files that cannot be used, ATP011 for a bad filter, ATP014 for a damaged patch.
    """
    loaded = read(model)
    facts = dict(_facts(loaded.proto, model))
    if is_patched(loaded.proto):
        facts["patch"] = stamp(loaded.proto)
    sites, rejected = find_sites(original_of(loaded))
    return Inspection(facts, select_sites(sites, include, exclude), rejected)


def select_sites(sites: Iterable[Site], include: str | None, exclude: str | None) -> tuple[Site, ...]:
    """The sites whose id or scope matches `include` and does not match `exclude`.

    Raises:
        AtpatchError: ATP011 if a filter is not a regular expression.
    """
    wanted, unwanted = _pattern(include), _pattern(exclude)
    return tuple(
        site
        for site in sites
        if (wanted is None or wanted.search(site.id) or wanted.search(site.scope))
        and not (unwanted and (unwanted.search(site.id) or unwanted.search(site.scope)))
    )


@overload
def extract(model: onnx_ir.Model, site_id: str, output: PathLike | None = None) -> onnx_ir.Model: ...
@overload
def extract(model: onnx.ModelProto | PathLike, site_id: str, output: PathLike | None = None) -> onnx.ModelProto: ...
def extract(model: Model, site_id: str, output: PathLike | None = None) -> Graph:
    """One attention site as a tiny standalone model, for bug reports.

    Args:
        model: path, `onnx.ModelProto` or `onnx_ir.Model`.
        site_id: id of the site, as `inspect` gives it.
        output: file to write; None: nothing is written.

    Returns:
        an `onnx_ir.Model` if the model is one, else an `onnx.ModelProto`.

    Raises:
        AtpatchError: ATP058 for an unknown site, ATP016 if the output is the model itself, and those of loading and
            saving.
    """
    from rewriters.surgeon import extract as cut_out  # nothing else needs graphsurgeon

    loaded = read(model)
    if output is not None and isinstance(model, (str, os.PathLike)):
        refuse_overwriting(Path(model), Path(output))
    if output is not None:
        check_destination(output)
    proto = original_of(loaded)
    sites, _ = find_sites(proto)
    part = cut_out(proto, site_id, sites)
    if output is not None:
        model_io.save(part, output)
    return loaded.alike(part)


# Former names, from before functions were named like the commands.
inspect_model, extract_site = inspect, extract


def no_site(whose: str, sites: Sequence[Site], rejected: Sequence[Rejection]) -> AtpatchError:
    """ATP010 with advice that fits: a wider filter, a look at the rejected Softmax nodes, or another file.

    Args:
        sites: all sites of the model, before the filters.
        rejected: every other Softmax of the model.
    """
    if sites:
        return NO_SITE(
            f"the filters leave none of {len(sites)} sites", "widen --include or --exclude; 'inspect' lists the sites"
        )
    if rejected:
        return NO_SITE(
            f"{whose} has no attention site; {len(rejected)} candidate{'s were' if len(rejected) > 1 else ' was'}"
            " rejected"
        )
    return NO_SITE(
        f"{whose} has no attention site, and no Softmax or attention operator that could be one",
        "give the file that holds the Transformer itself; a model without attention has nothing to patch",
    )


def count_nodes(model: onnx.ModelProto) -> int:
    """Number of nodes of the main graph, all subgraphs and all functions."""
    return sum(len(body.node) for _, body in walk_bodies(model))


def read_model(model: Model) -> onnx.ModelProto:
    """The `ModelProto` of any model that the API accepts. A `ModelProto` is returned as it is."""
    return read(model).proto


def original_of(loaded: Loaded) -> onnx.ModelProto:
    """The model without its patch, if it has one."""
    return unpatch(loaded.proto, exact=loaded.exact) if is_patched(loaded.proto) else loaded.proto


def _facts(proto: onnx.ModelProto, model: Model) -> Mapping[str, Any]:
    return {
        "path": os.fspath(model) if isinstance(model, (str, os.PathLike)) else None,
        "opset": model_io.default_opset(proto),
        "ir_version": proto.ir_version,
        "producer": " ".join(filter(None, (proto.producer_name, proto.producer_version))),
        "nodes": count_nodes(proto),
        "external_data": list(external_locations(proto)),
    }


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise BAD_FILTER(f"{text!r}: {error}") from error
