"""DNS rebinding and posts from other sites."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from atpatch_onnx.serve.host_check import require_known_host, require_same_origin
from atpatch_onnx.serve.limits import Refusal

from .conftest import TOKEN, Served

NAMES = ("models.example.org",)
FORM = {"Content_Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LocalHost",
        "a.localhost",
        "127.0.0.1:8000",
        "10.1.2.3",
        "[::1]:8000",
        "models.example.org",
        "",
        None,
    ],
)
def test_known_hosts(host: str | None) -> None:
    require_known_host({} if host is None else {"host": host}, NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "notlocalhost",
        "[::1",
        "1",
        "x y",
    ],
)
def test_foreign_hosts(host: str) -> None:
    with pytest.raises(Refusal, match="--allow-host") as refusal:
        require_known_host({"host": host}, NAMES)
    assert refusal.value.status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "HTTP://127.0.0.1:8000"},
        {"origin": "https://models.example.org"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
def test_same_origin(headers: dict[str, str]) -> None:
    require_same_origin({"host": "127.0.0.1:8000", **headers}, NAMES)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9000"},
        {"origin": "http://127.0.0.1"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://[::1"},
        {"origin": "http://models.example.org.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_origins(headers: dict[str, str]) -> None:
    with pytest.raises(Refusal, match="another site") as refusal:
        require_same_origin({"host": "127.0.0.1:8000", **headers}, NAMES)
    assert refusal.value.status == 403


def test_page_and_admin_of_a_server(start: Callable[..., Served]) -> None:
    served = start("--mode", "patched", "--allow-host", "Models.example.org")
    good = {"Authorization": f"Bearer {TOKEN}"}
    assert served.ask("GET", "/")[0] == 200 and served.ask("GET", "/", Host="models.example.org")[0] == 200
    assert served.ask("GET", "/", Host="evil.example")[0] == 403
    assert served.ask("GET", "/v2", Host="evil.example")[0] == 200  # proxies may pass any name on
    assert served.ask("POST", "/admin/kill", {}, **good, Host="evil.example")[0] == 403
    assert served.ask("POST", "/admin/kill", {}, **good, Origin="http://evil.example")[0] == 403
    assert served.ask("POST", "/admin/kill", f"token={TOKEN}".encode(), **FORM, Origin="null")[0] == 403
    assert served.metric("atpatch_killed") == 0
    origin = f"http://127.0.0.1:{served.port}"
    assert served.ask("POST", "/admin/kill", f"token={TOKEN}".encode(), **FORM, Origin=origin)[0] == 303
    assert served.metric("atpatch_killed") == 1
    assert (
        served.ask(
            "POST", "/admin/restore", {}, **good, Host="models.example.org", Origin="https://models.example.org"
        )[0]
        == 200
    )
    assert served.metric("atpatch_killed") == 0
