"""The split: its share, its stickiness, what moves when it changes."""

import math

import pytest

from atpatch_onnx.serve.routing import Split


@pytest.mark.parametrize(("weight", "salt"), [(0.1, ""), (0.1, "other"), (0.5, ""), (0.01, "")])
def test_share_of_100_000_units_within_3_sigma(weight: float, salt: str) -> None:
    split = Split("exp", salt, weight)
    patched = sum(split.arm(f"user-{number}") == "patched" for number in range(100_000))
    assert abs(patched - 100_000 * weight) <= 3 * math.sqrt(100_000 * weight * (1 - weight))


def test_same_unit_same_arm_in_every_process() -> None:
    # Written down once: another value would deal every running experiment anew at an upgrade.
    split = Split("exp", "salt", 0.5)
    assert [round(split.bucket(unit), 6) for unit in ("a", "b", "ü")] == [0.34464, 0.513527, 0.490209]
    assert split.pseudonym("a") == Split("exp", "salt", 0.1).pseudonym("a")


def test_raising_the_weight_moves_no_unit_back() -> None:
    small, large = Split("exp", "salt", 0.1), Split("exp", "salt", 0.2)
    units = [str(number) for number in range(20_000)]
    assert all(large.arm(unit) == "patched" for unit in units if small.arm(unit) == "patched")


def test_another_experiment_or_salt_deals_independently() -> None:
    units = [str(number) for number in range(20_000)]
    one = [Split("one", "salt", 0.5).arm(unit) for unit in units]
    for other in (Split("two", "salt", 0.5), Split("one", "pepper", 0.5), Split("on", "esalt", 0.5)):
        same = sum(arm == other.arm(unit) for arm, unit in zip(one, units, strict=True))
        assert abs(same - 10_000) <= 4 * math.sqrt(20_000 / 4)


@pytest.mark.parametrize(("weight", "arm"), [(0.0, "original"), (1.0, "patched")])
def test_ends(weight: float, arm: str) -> None:
    assert {Split("exp", "", weight).arm(str(number)) for number in range(2000)} == {arm}


def test_pseudonym_tells_neither_unit_nor_bucket() -> None:
    split = Split("exp", "salt", 0.5)
    assert len(split.pseudonym("alice")) == 16 and "alice" not in split.pseudonym("alice")
    assert split.pseudonym("alice") != Split("exp", "pepper", 0.5).pseudonym("alice")
    assert int(split.pseudonym("alice"), 16) >> 11 != int(split.bucket("alice") * 2**53)
