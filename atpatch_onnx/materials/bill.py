"""Makes the bill of materials of a patched model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewriters.model.atomic import write_file
from rewriters.model.forms import PathLike
from rewriters.model.regular_files import check_destination

from ..inspection.environment import require
from ..paths import refuse_overwriting
from .facts import facts_of

__all__ = ["BillOfMaterials", "bom"]


@dataclass(frozen=True)
class BillOfMaterials:
    """A bill of materials.

    Attributes:
        document: CycloneDX 1.6, plain data.
        notes: one-line remarks for people: what could not be said, and why.
    """

    document: Mapping[str, Any]
    notes: tuple[str, ...]

    def to_text(self) -> str:
        """The JSON, as it is written."""
        return json.dumps(self.document, indent=2) + "\n"


def bom(model: PathLike, output: PathLike | None = None, *, hotfix: PathLike | None = None) -> BillOfMaterials:
    """Make the bill of materials of a patched model: CycloneDX 1.6, with the original as its ancestor and the hotfix as
    its patch. Needs the extra 'bom'.

    Args:
        model: a patched file, or a folder of one model.
        output: file to write. None: nothing is written.
        hotfix: the hotfix of the patch, which has the figures. None: the one next to the model.

    Returns:
        the document, which CycloneDX's own validator has accepted, and notes.

    Raises:
        AtpatchError: ATP001-ATP005 (unreadable), ATP013 (no patch), ATP014 (changed since), ATP016 and ATP019 (output),
            ATP051 (extra 'bom'), ATP053-ATP055 (hotfix), ATP060 and ATP092 (folder, SOURCE_DATE_EPOCH).
    """
    require("a bill of materials", "cyclonedx-python-lib")
    from .document import document

    if output is not None:
        check_destination(output)
    facts = facts_of(model, hotfix)
    made = BillOfMaterials(document(facts), facts.notes)
    if output is not None:
        for source in facts.files:
            refuse_overwriting(source, Path(output), "give another name with -o")
        write_file(Path(output), made.to_text().encode())
    return made
