"""Decision logs as the server writes them, of traffic whose truth is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from atpatch_onnx.decisions import SCHEMA

START = 1_790_000_000.0
SALT = "00112233aabbccdd"


def moment(unix: float) -> dict[str, Any]:
    """The fields `time` and `unix`."""
    return {
        "time": datetime.fromtimestamp(unix, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "unix": unix,
    }


def digest(text: object) -> str:
    return hashlib.blake2b(str(text).encode(), digest_size=8, key=b"salt").hexdigest()


def bucket(unit: object) -> float:
    return int(digest(f"bucket {unit}"), 16) / 2**64


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A decision with every field of the schema."""
    base: dict[str, Any] = {
        "schema": SCHEMA,
        "event": "decision",
        **moment(START + number * 0.5),
        "experiment": "default",
        "revision": 1,
        "salt": SALT,
        "mode": "ab",
        "weight": 0.5,
        "id": f"r{number}",
        "unit": digest(f"r{number}"),
        "unit_given": False,
        "assigned": "original",
        "arm": "original",
        "fallback": None,
        "batch": 1,
        "prediction": {"original": [0], "patched": None},
        "flagged": None,
        "sites": None,
        "columns": None,
        "shadow": None,
        "agree": None,
        "difference": None,
        "latency_ms": {"original": 1.0, "patched": None, "total": 1.2},
    }
    return base | changes


def patched(number: int, says: int = 0, flagged: bool | None = False, **changes: Any) -> dict[str, Any]:
    """Assigned to the patched arm and answered by it."""
    arm = {
        "assigned": "patched",
        "arm": "patched",
        "prediction": {"original": None, "patched": [says]},
        "flagged": None if flagged is None else [flagged],
        "latency_ms": {"original": None, "patched": 1.3, "total": 1.5},
    }
    return row(number, **(arm | changes))


def pair(number: int, before: int, after: int, **changes: Any) -> dict[str, Any]:
    """A shadow request that was compared."""
    both = {
        "mode": "shadow",
        "weight": 0.0,
        "prediction": {"original": [before], "patched": [after]},
        "flagged": [before != after],
        "shadow": "compared",
        "agree": [before == after],
        "difference": [abs(before - after) * 0.9 + 0.001],
        "latency_ms": {"original": 1.0, "patched": 1.25, "total": 1.1},
    }
    return row(number, **(both | changes))


def ab_rows(
    units: int, weight: float, original: float, patched_rate: float, requests: int = 1, seed: int = 0, skew: float = 0.0
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Rows of a split by hash with what became of each; class 1 is wrong everywhere.

    `skew` loses that share of the patched units.
    """
    random = np.random.default_rng(seed)
    number = 0
    for unit in range(units):
        ours = bucket(f"{seed} {unit}") < weight
        if ours and random.random() < skew:
            continue
        rate = patched_rate if ours else original
        # A unit's requests hang together: it has its own rate around the arm's.
        own = random.beta(rate * 4, (1 - rate) * 4) if requests > 1 else rate
        for _ in range(requests):
            hit = bool(random.random() < own)
            latency = float(np.exp(random.normal(0.2, 0.3)))
            common = {"unit": digest(unit), "unit_given": requests > 1, "weight": weight}
            if ours:
                times = {"original": None, "patched": latency * 1.2, "total": latency * 1.2 + 0.1}
                yield patched(number, int(hit), bool(random.random() < 0.02), latency_ms=times, **common), hit
            else:
                times = {"original": latency, "patched": None, "total": latency + 0.1}
                yield row(number, prediction={"original": [int(hit)], "patched": None}, latency_ms=times, **common), hit
            number += 1


def shadow_rows(
    count: int, apart: float, better: float, classes: int = 10, seed: int = 0
) -> Iterator[tuple[dict[str, Any], int]]:
    """Pairs with their labels: the arms disagree at rate `apart`;
    of these the patched one is right at rate `better`.
    """
    random = np.random.default_rng(seed)
    for number in range(count):
        label = int(random.integers(classes))
        before = after = label
        if random.random() < apart:
            # A backdoor's target is 0: the wrong answers pile up there.
            wrong = 0 if label else 1
            before, after = (wrong, label) if random.random() < better else (label, wrong)
        latency = float(np.exp(random.normal(0.2, 0.3)))
        times = {
            "original": latency,
            "patched": latency * float(np.exp(random.normal(0.15, 0.05))),
            "total": latency + 0.1,
        }
        yield pair(number, before, after, latency_ms=times, **moment(START + number * 7.0)), label


def write_log(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in rows), encoding="utf-8")
    return path
