"""Options of an audit: `AuditOptions`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from ..errors import BAD_OPTION
from ..options import option

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rewriters.model.forms import Model, PathLike

__all__ = ["AuditKeywords", "AuditOptions"]


class AuditKeywords(TypedDict, total=False):
    """`AuditOptions` as keywords of a call."""

    clean: PathLike | Mapping[str, NDArray[Any]] | None
    table: PathLike | None
    columns: PathLike | None
    tokenizer: PathLike | None
    reference: Model | None
    budget: float
    cut: PathLike | None
    output_name: str | None
    seed: int
    threads: int | None


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """How a model is audited.

    Attributes:
        clean: rows that you trust, .npz, .tsv or .csv: as for 'debugset --data'. Without them only a text model can
            be run, on random tokens.
        table: rows of a table that you trust, in place of clean: .csv or .npz.
        columns: with table: column description, .toml or .json, as for 'fit'.
        tokenizer: texts: folder with tokenizer.json or vocab.txt; by default that of the model, if it has one.
        reference: a model that you trust; the audit says what differs.
        budget: minutes that the checks that run the model may take together.
        cut: write the model without the planted nodes to this file, if it can be proven that nothing else changes.
        output_name: graph output with the class scores; by default the first float output of rank 2.
        seed: of the searches.
        threads: of onnxruntime and torch.

    Raises:
        AtpatchError: ATP060 where an option is out of range.
    """

    clean: PathLike | Mapping[str, NDArray[Any]] | None = option(None, metavar="DATA")
    table: PathLike | None = option(None, metavar="FILE")
    columns: PathLike | None = option(None, metavar="FILE")
    tokenizer: PathLike | None = option(None, metavar="FOLDER")
    reference: Model | None = option(None, metavar="MODEL")
    budget: float = option(12.0, metavar="MINUTES")
    cut: PathLike | None = option(None, metavar="OUT")
    output_name: str | None = option(None, metavar="NAME")
    seed: int = 0
    threads: int | None = None

    @property
    def gives_rows(self) -> bool:
        """Whether there are rows that the user trusts."""
        return self.clean is not None or self.table is not None

    def __post_init__(self) -> None:
        if not self.budget >= 0:
            raise BAD_OPTION(f"a budget of {self.budget} minutes", "give 0 or more; with 0 the model is not run")
        if self.clean is not None and self.table is not None:
            raise BAD_OPTION("--clean and --table are given", "give one of them")
        if self.columns is not None and self.table is None:
            raise BAD_OPTION("--columns needs --table")
        if self.seed < 0:
            raise BAD_OPTION(f"seed {self.seed} is negative")
