"""Who may open the page and post to the admin endpoint: against DNS rebinding and posts from other sites.

1. The host that a request names must be an IP address, `localhost`, or a name allowed with `--allow-host`. A foreign
   page can make its own name point to this machine, but then its name is what the browser sends. A request without a
   host comes from no browser.
2. A post that names an origin must come from the host that it goes to, or from an allowed name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from .limits import Refusal

__all__ = ["require_known_host", "require_same_origin"]


def require_known_host(headers: Mapping[str, str], allowed: Collection[str]) -> None:
    """Raises: Refusal 403 by rule 1."""
    name = _name("//" + headers.get("host", ""))
    if name and not (name == "localhost" or name.endswith(".localhost") or _is_address(name) or name in allowed):
        raise Refusal(
            403, f"host {name[:100]!r} is not known here; start the server with --allow-host NAME if it should be"
        )


def require_same_origin(headers: Mapping[str, str], allowed: Collection[str]) -> None:
    """Raises: Refusal 403 by rule 2."""
    origin = headers.get("origin")
    if origin is None:
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    else:
        foreign = origin.lower().partition("://")[2] != headers.get("host", "").lower() and _name(origin) not in allowed
    if foreign:
        raise Refusal(
            403, "this comes from another site; start the server with --allow-host NAME if that is its public name"
        )


def _name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return url  # no host that anybody could be


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
