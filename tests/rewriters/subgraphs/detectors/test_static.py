"""A fixed set of columns."""

from __future__ import annotations

import numpy as np
import pytest

from rewriters.plan import Static
from rewriters.subgraphs.detectors.static import scores

from ..emitted import emitted, ran
from .maps import A, context


@pytest.mark.parametrize("conditional", [True, False], ids=["if", "none"])
@pytest.mark.parametrize("columns", [(), (0,), (5,), (1, 4), (3, 9)], ids=str)
def test_just_these_columns_are_above_every_threshold(columns: tuple[int, ...], conditional: bool) -> None:
    got = ran(lambda e: scores(e, context("plain"), Static(columns)), a=A, conditional=conditional)
    assert got.shape == (2, 6)
    for row in got:
        assert (row == np.where(np.isin(np.arange(6), columns), np.inf, -np.inf)).all()


def test_a_silent_patch_is_wired_as_a_firing_one() -> None:
    silent, firing = (emitted(lambda e, c=c: scores(e, context("plain"), Static(c)), {"a": A}) for c in ((), (2,)))
    assert [node.op_type for node in silent.graph.node] == [node.op_type for node in firing.graph.node]
