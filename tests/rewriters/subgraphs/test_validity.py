"""Which key columns are real."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rewriters.emit import Emitter
from rewriters.finding.finder import find_sites
from rewriters.sites import Layout
from rewriters.subgraphs.validity import valid_columns

from ..patterns import Q4, QK, model
from .emitted import emitted, ran

SITE = find_sites(model(f"{QK} p = Softmax<axis = -1>(qk) out = MatMul(p, v)", Q4))[0][0]
A = np.zeros((2, 2, 3, 4), np.float32)
A[0, 1, 2, 1], A[0, 0, 0, 3], A[1, 0, 1, 0], A[1, 0, 0, 2] = 0.5, 1e-29, 1, 1e-31
SEEN = np.array([[0, 1, 0, 1], [1, 0, 0, 0]], bool)


@pytest.mark.parametrize("conditional", [True, False], ids=["if", "none"])
def test_a_column_is_valid_where_any_row_of_any_head_gives_it_mass(conditional: bool) -> None:
    got = ran(lambda e: valid_columns(e, SITE, "a"), a=A, conditional=conditional)
    assert got.dtype == bool and (got == SEEN).all()


def test_rounding_below_zero_takes_nothing_from_a_column_in_branch_free_graphs() -> None:
    a = A.copy()
    a[0, 1, :2, 1] = -0.4
    assert (ran(lambda e: valid_columns(e, SITE, "a"), a=a, conditional=False) == SEEN).all()
    nodes = emitted(lambda e: valid_columns(e, SITE, "a"), {"a": A}).graph.node
    assert "Relu" not in {node.op_type for node in nodes}


def test_the_mask_of_the_graph_goes_first() -> None:
    site = replace(SITE, key_mask="mask")
    mask = np.array([[1, 1, 0, 0], [0, 2, 0, 1]])
    got = ran(lambda e: valid_columns(e, site, "a", "known"), a=A, mask=mask, known=SEEN)
    assert got.dtype == bool and (got == (mask != 0)).all()


def test_the_mask_of_the_graph_is_read_once() -> None:
    site = replace(SITE, key_mask="mask")

    def twice(e: Emitter) -> str:
        assert valid_columns(e, site, "a") == valid_columns(e, site, "a")
        return e.op("Identity", "mask")

    assert [node.op_type for node in emitted(twice, {"mask": SEEN}).graph.node] == ["Flatten", "Cast", "Identity"]


@pytest.mark.parametrize("layout", [Layout(3), Layout(5), Layout(4, single_head=True)], ids=["3d", "5d", "one-head"])
def test_a_mask_of_samples_says_nothing_of_windows(layout: Layout) -> None:
    site = replace(SITE, key_mask="mask", layout=layout)
    got = ran(lambda e: valid_columns(e, site, "a"), a=A, mask=np.ones((2, 4)))
    assert (got == SEEN).all()


def test_the_padding_mask_of_a_fused_operator_goes_before_the_map() -> None:
    assert valid_columns(Emitter("s", 17, None, {}), SITE, "a", "known") == "known"  # type: ignore[arg-type]
    merged = replace(SITE, key_mask="mask", layout=Layout(3, merged_heads=2))
    mask = np.array([[1, 1, 0, 0], [0, 1, 0, 1]])
    assert (ran(lambda e: valid_columns(e, merged, "a", "known"), mask=mask) == mask).all()
