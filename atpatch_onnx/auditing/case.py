"""What the checks of an audit read."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from rewriters.editing.patcher import is_patched
from rewriters.finding.finder import find_sites
from rewriters.finding.token_inputs import TokenInputs, token_inputs
from rewriters.model.forms import Loaded, Model, read
from rewriters.model.regular_files import check_source
from rewriters.sites import Site

from ..debugset.subject import Subject
from ..debugset.tables import check_table
from ..errors import TOKENIZER_UNUSABLE, AtpatchError
from ..inspection.inspector import original_of
from ..inspection.model_files import model_file
from .budget import Budget
from .options import AuditOptions

__all__ = ["Case", "open_case"]


@dataclass(frozen=True, eq=False)
class Case:
    """A model under audit.

    Attributes:
        loaded: as it came.
        proto: without a patch of ours, where its stamp can be undone; not to be changed.
        patch_error: why the stamp cannot be undone; "" where it can, or there is none.
        path: its file; None for a model in memory.
        budget: of the checks that run the model.
    """

    loaded: Loaded
    proto: onnx.ModelProto
    patch_error: str
    path: Path | None
    options: AuditOptions
    budget: Budget

    @property
    def folder(self) -> Path:
        return self.loaded.folder

    @property
    def name(self) -> str:
        """What to call the model in a command; quoted, since a stranger may have named the file."""
        return "MODEL" if self.path is None else shlex.quote(os.fspath(self.path))

    @property
    def stamped(self) -> bool:
        return is_patched(self.loaded.proto)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Its attention sites."""
        return find_sites(self.proto)[0]

    @cached_property
    def tokens(self) -> TokenInputs | None:
        """What its inputs mean, if it reads a text; else None."""
        return token_inputs(self.proto, self.sites)

    def subject(self) -> Subject:
        """It, to be run. Not kept: its session holds the weights, and a case lives as long as the audit's result.

        Raises:
            AtpatchError: ATP012 for a patch that cannot be taken out.
        """
        subject = Subject(self.proto, self.options.output_name, self.options.threads)
        subject.folder = self.folder
        return subject


def open_case(model: Model, options: AuditOptions, budget: Budget) -> Case:
    """Read the model.

    Raises:
        AtpatchError: ATP001-ATP005, ATP020 and ATP021 for a model that cannot be used, ATP060 for a folder with several
            models, and what reading a folder raises; ATP002 and ATP081 for rows and a tokenizer that are not there,
            ATP080 for a table and a description that do not go together: a name that was mistyped must not end in a
            clean verdict.
    """
    if isinstance(options.clean, (str, os.PathLike)):
        check_source(options.clean, "give the path of one .npz, .tsv or .csv file")
    if options.table is not None:
        check_source(options.table, "give the path of one .csv or .npz file")
    if options.columns is not None:
        check_source(options.columns, "give the path of one .toml or .json file")
    if options.table is not None:
        check_table(options.table, options.columns)
    if options.tokenizer is not None and not os.path.exists(options.tokenizer):
        raise TOKENIZER_UNUSABLE(f"there is no folder {os.fspath(options.tokenizer)}")
    path = model_file(model) if isinstance(model, (str, os.PathLike)) else None
    loaded = read(model if path is None else path)
    try:
        proto, why = original_of(loaded), ""
    except AtpatchError as error:
        proto, why = loaded.proto, error.what
    return Case(loaded, proto, why, path, options, budget)
