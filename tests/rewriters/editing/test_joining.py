"""What sites of a group flag together, from the scores and masks of each."""

from __future__ import annotations

import numpy as np

from rewriters.editing.joining import join
from rewriters.emit import Emitter
from rewriters.plan import OneClass, PatchPlan, SitePlan
from rewriters.subgraphs.site import SitePatch

from ..graphs import attention_block
from ..subgraphs.emitted import ran

NEVER = -np.inf


def test_a_column_counts_at_the_sites_that_see_it() -> None:
    """Columns: both sites see it; one does; the other does; none does; a sink at both, and at the one that sees it."""
    site = attention_block().site
    mean, weight = np.zeros(1, np.float32), np.ones((1, 1), np.float32)
    detector = OneClass(mean, weight, squared=False, offset=0.0, probes=(), answer_row=True)
    plan = PatchPlan(
        {site.id: SitePlan(detector)},
        threshold=-1.0,
        groups=((site.id,),),
        passes="two",
        joint="sum",
        controls="none",
    )
    arrays = {
        "first": np.array([[2, 3, 0, 0, NEVER, NEVER]], np.float32),
        "second": np.array([[1, 0, -4, 0, NEVER, 0]], np.float32),
        "seen_first": np.array([[True, True, False, False, True, True]]),
        "seen_second": np.array([[True, False, True, False, True, False]]),
    }

    def joined(e: Emitter, threshold: float) -> str:
        members = [(site, SitePatch((), score=name, seen=f"seen_{name}")) for name in ("first", "second")]
        return join(e, PatchPlan(**{**vars(plan), "threshold": threshold}), members).columns

    for threshold, want in ((-5.0, [1, 1, 1, 0, 0, 0]), (-1.0, [1, 1, 0, 0, 0, 0]), (2.5, [1, 1, 0, 0, 0, 0])):
        flags = ran(lambda e, threshold=threshold: joined(e, threshold), **arrays)
        np.testing.assert_array_equal(flags, [np.array(want, bool)], err_msg=str(threshold))
