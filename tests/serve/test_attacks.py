"""Whatever one client sends, another is answered soon, memory stays, connections end, and nobody sees a traceback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import attacks
from .attacks import ATTACKS, Target, attack, target

LIMIT = 1.5
SLOW = [name for name in ATTACKS if name.startswith(("slow", "unread", "grpc slow"))]


@pytest.fixture(scope="module")
def attacked() -> Iterator[Target]:
    with target(LIMIT) as found:
        yield found


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "CONNECTIONS", 60)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in SLOW])
def test_floods(attacked: Target, name: str) -> None:
    done = attack(name, attacked)
    assert done["wait"] < 3 and done["growth"] < 300 and not done["traceback"], done
    assert not {200, "OK", "StatusCode.OK"} & set(done.get("statuses", ())), done
    assert set(done.get("answers", ())) <= {"", "HTTP/1.1 431 Request Header Fields Too Large"}, done


@pytest.mark.parametrize("name", SLOW)
def test_slow_clients(attacked: Target, name: str) -> None:
    done = attack(name, attacked)
    assert done["wait"] < 3 and done["growth"] < 300 and not done["traceback"], done
    assert done["closed"] == done["of"] and done.get("others", ["OK"]) == ["OK"] and done.get("last", 0) < LIMIT + 2, (
        done
    )
