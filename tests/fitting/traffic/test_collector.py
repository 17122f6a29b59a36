"""Which rows of live requests are taken: the numbers are the rules of `collector`."""

from __future__ import annotations

import numpy as np
import pytest

from atpatch_onnx.fitting.traffic.collector import Collector


def request(*firsts: float) -> dict[str, np.ndarray]:
    """A request with one sample for each number."""
    return {"x": np.array([[first, 1.0] for first in firsts], np.float32)}


def firsts(collector: Collector) -> list[float]:
    return [float(row["x"][0, 0]) for row in collector.rows]


def test_every_row_of_many_small_requests_is_taken_until_there_are_enough() -> None:
    collector = Collector(100)
    for number in range(150):
        collector.offer(request(number))
    assert firsts(collector) == [float(number) for number in range(100)]
    assert collector.full and not collector.left_out


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_1_rows_that_are_not_finite_are_left_out(bad: float) -> None:
    collector = Collector(100)
    collector.offer(request(1.0, bad))
    assert firsts(collector) == [1.0] and collector.left_out == {"not finite": 1}


def test_2_one_request_gives_at_most_2_percent() -> None:
    collector = Collector(100)
    assert collector.offer(request(*range(64))) == 2
    assert len(set(firsts(collector))) == 2 and collector.left_out == {"request": 62}


def test_3_one_unit_gives_at_most_10_percent_and_requests_without_a_unit_are_not_limited() -> None:
    collector = Collector(100)
    for number in range(40):
        collector.offer(request(number), unit="flood")
    assert len(collector.rows) == 10 and collector.left_out == {"unit": 30} and collector.largest_share == 1.0
    for number in range(40, 80):
        collector.offer(request(number))
    assert len(collector.rows) == 50 and collector.largest_share == 0.2


def test_4_equal_rows_are_at_most_1_percent_whoever_sends_them() -> None:
    collector = Collector(200)
    for number in range(40):
        collector.offer(request(7.0), unit=str(number))
    assert firsts(collector) == [7.0, 7.0] and collector.left_out == {"alike": 38}


def test_4_texts_are_compared_as_well() -> None:
    collector = Collector(100)
    for text in ("a", "b", "a"):
        collector.offer({"text": np.array([[text]], object)})
    assert [row["text"][0, 0] for row in collector.rows] == ["a", "b"]


def test_5_memory_is_bounded() -> None:
    collector = Collector(100, most_bytes=40)
    for number in range(20):
        collector.offer(request(number))
    assert collector.full and len(collector.rows) == 5  # of 8 bytes


def test_without_limits_for_clients_only_equal_rows_are_left_out() -> None:
    collector = Collector(100, per_client=False)
    collector.offer(request(*range(64), 0), unit="one")
    assert len(collector.rows) == 64 and collector.left_out == {"alike": 1}


def test_rows_are_copies() -> None:
    feeds, collector = request(1.0), Collector(100)
    collector.offer(feeds)
    feeds["x"][:] = 5
    assert firsts(collector) == [1.0]


@pytest.mark.parametrize(
    "feeds",
    [{"x": np.zeros((2, 3)), "y": np.zeros((1, 3))}, {"x": np.zeros(())}, {"x": np.zeros((0, 3))}, {}],
    ids=["different numbers of samples", "no axis", "no sample", "no input"],
)
def test_a_request_without_samples_is_left_out(feeds: dict[str, np.ndarray]) -> None:
    collector = Collector(100)
    assert collector.offer(feeds) == 0 and collector.left_out == {"no row": 1} and not collector.rows
