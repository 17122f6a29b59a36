"""Names inside a patched graph: what is made can be taken apart again, in either run."""

from __future__ import annotations

import pytest

from rewriters import names


@pytest.mark.parametrize("owner", ["layers.0", "encoder_layer.1.2", "two-pass", "constant"])
@pytest.mark.parametrize("count", [0, 1, 12])
def test_owner_and_role_come_back(owner: str, count: int) -> None:
    name = names.make_name(owner, "column_peak", count)
    assert (names.owner_of(name), names.role_of(name)) == (owner, "column_peak")
    assert names.without_owner(name).startswith("column_peak")
    assert names.is_inserted(name) and names.is_ours(name) and not names.is_telemetry(name)


def test_numbers_tell_values_of_one_role_apart() -> None:
    assert len({names.make_name("site", "scale", count) for count in range(5)}) == 5


def test_a_role_is_the_same_in_the_second_run() -> None:
    assert names.role_of(names.second_run(names.make_name("layers.0", "scale", 3))) == "scale"


@pytest.mark.parametrize("name", ["layers.0/scale", "scale", "encoder/atpatch/scale", ""])
def test_the_models_own_values_have_no_owner_and_no_role(name: str) -> None:
    for value in (name, names.first_run(name), names.second_run(name)):
        assert names.role_of(value) == ""
    assert names.owner_of(name) == "" and names.without_owner(name) == name and not names.is_inserted(name)


def test_telemetry_is_known_by_its_names() -> None:
    assert names.is_telemetry(names.FLAGGED) and names.is_telemetry(names.columns_output("layers.0"))
    assert not any(map(names.is_telemetry, (names.ENABLED, names.THRESHOLD, "logits", "atpatch_flagged_too")))


@pytest.mark.parametrize("count", [0, 2])
def test_branches_of_a_gate_are_known(count: int) -> None:
    gate = names.make_name("layers.0", "gate", count)
    for key in ("then", "else"):
        assert names.branch_of_gate(names.branch_name(gate, f"{key}_branch")) == key
    assert names.branch_of_gate(names.branch_name(names.make_name("layers.0", "detection"), "then_branch")) is None
    assert names.branch_of_gate("/decoder/gate/then_branch") is None
