"""Equations of two operands, read as P·V."""

from __future__ import annotations

import pytest

from rewriters.finding.einsum import EinsumLayout, einsum_layout

READ = {
    # equation, operand, rank of P, rank of V → key, query, order of P, of V, of the output, axes that V lacks
    "heads first": (("bhqk,bhkd->bhqd", 0, 4, 4), (3, 2, (0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3), ())),
    "heads behind the tokens": (("bhqk,bkhd->bqhd", 0, 4, 4), (3, 2, (0, 1, 2, 3), (0, 2, 1, 3), (0, 2, 1, 3), ())),
    "values first": (("bkhd,bhqk->bqhd", 1, 4, 4), (3, 2, (0, 1, 2, 3), (0, 2, 1, 3), (0, 2, 1, 3), ())),
    "keys first in the map": (("bkqh,bkhd->bqhd", 0, 4, 4), (1, 2, (0, 3, 2, 1), (0, 2, 1, 3), (0, 2, 1, 3), ())),
    "no heads": (("bqk,bkd->bqd", 0, 3, 3), (2, 1, (0, 1, 2), (0, 1, 2), (0, 1, 2), ())),
    "nothing leading": (("qk,kd->qd", 0, 2, 2), (1, 0, (0, 1), (0, 1), (0, 1), ())),
    "bytes and blanks": ((b"b q k, b k d -> b q d", 0, 3, 3), (2, 1, (0, 1, 2), (0, 1, 2), (0, 1, 2), ())),
    "implicit output": (("qk,kr", 0, 2, 2), (1, 0, (0, 1), (0, 1), (0, 1), ())),
    "implicit output, sorted": (("zk,kd", 0, 2, 2), (1, 0, (0, 1), (0, 1), (1, 0), ())),
    "implicit output with an ellipsis": (
        ("...qk,...kr", 0, 4, 4),
        (3, 2, (0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3), ()),
    ),
    "ellipsis": (("...qk,...kd->...qd", 0, 3, 3), (2, 1, (0, 1, 2), (0, 1, 2), (0, 1, 2), ())),
    "ellipsis, rank of V unknown": (
        ("...qk,...kd->...qd", 0, 4, None),
        (3, 2, (0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3), ()),
    ),
    "rank of V unknown": (("bqk,bkd->bqd", 0, 3, None), (2, 1, (0, 1, 2), (0, 1, 2), (0, 1, 2), ())),
    "values first, their rank unknown": (("bkd,bqk->bqd", 1, 3, None), (2, 1, (0, 1, 2), (0, 1, 2), (0, 1, 2), ())),
    "heads under an ellipsis": (
        ("b...qk,bkd->b...qd", 0, 4, None),
        (3, 2, (0, 1, 2, 3), (0, 1, 2), (0, 1, 2, 3), (-3,)),
    ),
    "an ellipsis that stands for nothing": (("...qk,kd->...qd", 0, 2, 2), (1, 0, (0, 1), (0, 1), (0, 1), ())),
    "shared values": (("bhqk,bkd->bhqd", 0, 4, 3), (3, 2, (0, 1, 2, 3), (0, 1, 2), (0, 1, 2, 3), (-3,))),
    "width of two axes": (("bqk,bkde->bqde", 0, 3, 4), (2, 1, (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3), ())),
    "heads next to the width": (("hbqk,bkhd->bqhd", 0, 4, 4), (3, 2, (1, 0, 2, 3), (0, 2, 1, 3), (0, 2, 1, 3), ())),
    "heads right of the width": (("hbqk,bkdh->bqhd", 0, 4, 4), (3, 2, (1, 0, 2, 3), (0, 3, 1, 2), (0, 2, 1, 3), ())),
}


@pytest.mark.parametrize("case", READ)
def test_layout(case: str) -> None:
    (equation, operand, rank, values_rank), layout = READ[case]
    assert einsum_layout(equation, operand, rank, values_rank) == EinsumLayout(*layout)


REFUSED = {
    "one operand": (("bqk->bq", 0, 3, 3), "not have two operands"),
    "three operands": (("qk,kd,d->qd", 0, 2, 2), "not have two operands"),
    "map of another rank": (("bqk,bkd->bqd", 0, 2, 3), "does not fit its operands"),
    "map of a higher rank": (("bqk,bkd->bqd", 0, 4, 3), "does not fit its operands"),
    "values of another rank": (("bqk,bkd->bqd", 0, 3, 2), "does not fit its operands"),
    "an axis twice in the map": (("qqk,kd->qd", 0, 3, 2), "does not fit its operands"),
    "an axis twice in the values": (("qk,kdd->qd", 0, 2, 3), "does not fit its operands"),
    "an axis twice in the output": (("qk,kd->qdd", 0, 2, 2), "does not fit its operands"),
    "no width": (("bqk,bk->bq", 0, 3, 2), "not of the form"),
    "no keys": (("bqk,bkd->bqkd", 0, 3, 3), "not of the form"),
    "two key axes": (("bqkl,bkld->bqd", 0, 4, 4), "not of the form"),
    "two query axes and no sample": (("pqk,kd->pqd", 0, 3, 2), "not of the form"),
    "three query axes": (("bpqrk,bkd->bpqrd", 0, 5, 3), "not of the form"),
    "an axis of the map summed": (("bhqk,bkd->bqd", 0, 4, 3), "not of the form"),
    "an axis of the values summed": (("bqk,bkdz->bqd", 0, 3, 4), "not of the form"),
    "an axis of the output from nowhere": (("bqk,bkd->bqdz", 0, 3, 3), "not of the form"),
    "leading axes in two orders": (("hbqk,bhkd->bqhd", 0, 4, 4), "does not show which axis counts the heads"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_place_is_refused(case: str) -> None:
    (equation, operand, rank, values_rank), why = REFUSED[case]
    found = einsum_layout(equation, operand, rank, values_rank)
    assert isinstance(found, str) and why in found
