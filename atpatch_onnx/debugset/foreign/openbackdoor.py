"""Debugging sets from the poisoned texts that OpenBackdoor wrote, and their clean twins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import FOREIGN_UNREADABLE
from ...inference.datasets import DataSet, Ints
from ...inference.tokenizer import TextEncoder
from ..clean import read_labeled_texts
from ..request import Request
from ..row_checks import check_labels
from ..samples import Texts, read_rows
from ..sets import Built, open_rows
from ..subject import Subject
from ..text import build_poisoned, clean_texts
from .pairing import twins, with_others
from .tables import Table, clean_path, columns_of, poisoned_path, table_of

__all__ = ["openbackdoor_sets"]

FEWEST = 0.5
"""Share of the poisoned texts that must have a twin."""


def openbackdoor_sets(subject: Subject, request: Request) -> Built:
    """Debugging set and triggered set.

    1. Poisoned are the rows marked so. Their label is the target.
    2. The clean texts are those of `--data`, else of the table `<split>-clean.csv`, else of the table itself.
    3. A poisoned text is paired with its clean one, see `pairing`. Texts without one are left out, and counted.
    4. At most `rows` poisoned texts are drawn. Of the clean texts their twins are kept, and as many others at most.
    5. The model must get the clean texts right, as far as one can ask that.
    6. Labeled are the tokens that a shortest edit of the clean text adds.

    Raises:
        AtpatchError: ATP098 for the tables; ATP056, ATP060, ATP080, ATP081, ATP083 and ATP085 as for other texts.
    """
    assert request.openbackdoor is not None
    path = poisoned_path(request.openbackdoor)
    table = table_of(path, *read_rows(path))
    target = _target(table, path, request.target)
    clean, labels, encoder = _clean(subject, request, path)
    poisoned = [text for text, bad in zip(table.texts, table.poisoned, strict=True) if bad]
    rows = twins(poisoned, clean, labels, target)
    if (rows >= 0).mean() < FEWEST:
        raise FOREIGN_UNREADABLE(
            f"{int((rows < 0).sum()):,} of {len(rows):,} poisoned texts have no clean twin in"
            f" {request.data or clean_path(path) or path}",
            "give the clean texts of the same split with --data; rewritten texts are only paired by their order, in the"
            " fully poisoned table",
        )
    open_rows(labels, target)
    _, first = np.unique(rows, return_index=True)  # one poisoned text for each clean one
    usable = first[(rows[first] >= 0) & (labels[rows[first]] != target)]
    generator = np.random.default_rng(request.seed)
    chosen = generator.permutation(usable)[: request.rows]
    kept = with_others(rows[chosen], len(labels), generator)
    changed = dict(zip(rows[chosen].tolist(), (poisoned[one] for one in chosen), strict=True))
    texts = Texts([clean[row] for row in kept], labels[kept])
    if subject.ranks:
        subject.rank_among(clean_texts(subject, texts, encoder))
    built = build_poisoned(
        subject,
        texts,
        encoder,
        Texts([changed.get(row, clean[row]) for row in kept.tolist()], None),
        target,
    )
    assert built.clean is not None
    check_labels(subject, DataSet.from_arrays(built.clean))
    report = {
        **built.report,
        "trigger": "openbackdoor",
        "table": path.name,
        "stored": len(poisoned),
        "no_twin": int((rows < 0).sum()),
        "unchanged": len(chosen) - built.report["anomalous"],
    }
    return replace(built, report=report)


def _target(table: Table, path: Path, asked: int | None) -> int:
    found = np.unique(table.labels[table.poisoned]).tolist()
    if not found:
        raise FOREIGN_UNREADABLE(f"{path} has no poisoned row", "give the table <split>-poison.csv")
    if len(found) > 1:
        raise FOREIGN_UNREADABLE(
            f"the poisoned rows of {path} have the labels {', '.join(map(str, found))}; one was expected, the target"
        )
    if asked not in (None, found[0]):
        raise FOREIGN_UNREADABLE(
            f"the poisoned rows of {path} lead to class {found[0]}, not {asked}", "leave --target out"
        )
    return int(found[0])


def _clean(subject: Subject, request: Request, path: Path) -> tuple[list[str], Ints, TextEncoder]:
    """Clean texts, their labels, and the tokenizer."""
    source = Path(request.data) if request.data else clean_path(path) or path
    header, rows = read_rows(source)
    named = columns_of(header)
    data, encoder = read_labeled_texts(
        subject,
        source,
        request.tokenizer,
        text_column=request.text_column if named is None else named[0],
        label_column=request.label_column if named is None else named[1],
        names=request.class_names,
        max_length=request.max_length,
    )
    if data.labels is None:
        raise FOREIGN_UNREADABLE(f"{source} has no labels, so it does not say which texts lead to the target already")
    clean = np.arange(len(data.texts)) if named is None else np.flatnonzero(~table_of(source, header, rows).poisoned)
    if not len(clean):
        raise FOREIGN_UNREADABLE(
            f"there is no clean text next to {path}, and every row of {source} is poisoned",
            "give the clean texts of the same split with --data",
        )
    return [data.texts[row] for row in clean], data.labels[clean], encoder
