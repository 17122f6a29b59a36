"""A patch of ours in the model: whether its stamp holds.

A stamp is no signature: whoever can write the file can write a stamp. So what is inside a patch counts as verified only
where the same patch can be made again, from a hotfix next to the model, and comes out equal.
"""

from __future__ import annotations

from rewriters.editing import patcher
from rewriters.model import io as model_io

from ...errors import AtpatchError
from ...hotfix.options import PatchOptions
from ...hotfix.plans import hotfix_next_to
from ...patching.edits import patch_loaded
from ..case import Case
from ..finding import Checked
from ..rule import Rule

__all__ = ["RULES", "check"]

CHECK = "provenance"
BROKEN = Rule(
    CHECK,
    "AUD311",
    "a stamp of atpatch-onnx that does not hold",
    "'patch' leaves a stamp: what it did, how to undo it, and the digest of the original. If undoing it does not give a"
    " graph with this digest, the file was changed after it was patched, or the stamp is a disguise.",
)
UNPROVEN = Rule(
    CHECK,
    "AUD312",
    "a patch that cannot be made again here",
    "A stamp is no signature. The inserted operators are known to be ours only where the hotfix is at hand, and the"
    " original patched with it gives the same graph. Otherwise undo the patch, and patch again.",
)
RULES = (BROKEN, UNPROVEN)


def check(case: Case) -> Checked:
    """Undo the patch, and make it again where the hotfix lies next to the model."""
    if not case.stamped:
        return Checked()
    if case.patch_error:
        return Checked(
            (
                BROKEN.finding(
                    "error",
                    "metadata_props",
                    f"{case.patch_error}: what stands in for a patch may do anything",
                    remedy="get the original from where it came, and patch it yourself",
                ),
            )
        )
    why = _why_unproven(case)
    if why is None:
        return Checked()
    remedy = f"atpatch-onnx unpatch {case.name} -o original.onnx, then patch that one with your own hotfix"
    return Checked((UNPROVEN.finding("note", "metadata_props", why, remedy=remedy),))


def _why_unproven(case: Case) -> str | None:
    hotfix = None if case.path is None else hotfix_next_to(case.path)
    if hotfix is None:
        return "the file carries a patch, and no hotfix lies next to it to make the patch again and compare"
    facts = patcher.stamp(case.loaded.proto)
    wanted = PatchOptions(hotfix=hotfix, gating="none" if facts.get("gating") == "none" else "if")
    try:
        again = patch_loaded(case.loaded, wanted, None).patched
    except AtpatchError as error:
        return f"the patch cannot be made again: {error.what}"
    if model_io.digest(again) != model_io.digest(case.loaded.proto):
        return "the hotfix next to the model gives another patch than the one in the file, or other options were used"
    return None
