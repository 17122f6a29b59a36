"""Names inside a patched graph. They are made and parsed here, and nowhere else.

    atpatch_enabled, atpatch_threshold          inputs that steer a session
    atpatch_flagged, atpatch_columns/<site>     outputs that say what was flagged
    atpatch_length_unseen                       output that says which requests are shorter or longer than any seen
    atpatch_span, atpatch_span_attention        input that marks tokens, output with the attention on them
    atpatch_alarm, atpatch_alarm_score          outputs that say which requests have hidden states like those of attacks
    atpatch_given_columns                       input with the flagged columns of a second run by itself
    atpatch/<owner>/<role>, <role>.1, ...       an inserted node and the value it makes; the owner is a site, or a part
                                                that all share
    atpatch/first/<name>, atpatch/second/<name> values of the first and of the second run (`second_pass`)

A name says what a person reads it for. What a program has to find again is recorded in the stamp (`observe`).
"""

from __future__ import annotations

import re

__all__ = [
    "ALARM",
    "ALARM_SCORE",
    "COLUMNS",
    "ENABLED",
    "FLAGGED",
    "GIVEN_COLUMNS",
    "LENGTH_UNSEEN",
    "PREFIX",
    "SPAN",
    "SPAN_ATTENTION",
    "STEERING",
    "THRESHOLD",
    "branch_name",
    "branch_of_gate",
    "columns_output",
    "first_run",
    "is_inserted",
    "is_ours",
    "is_telemetry",
    "make_name",
    "owner_of",
    "role_of",
    "second_run",
    "without_owner",
]

_OURS = "atpatch"
PREFIX = _OURS + "/"
"""Every node and value inside the graph that a patch puts in starts with this."""

ENABLED = _OURS + "_enabled"
THRESHOLD = _OURS + "_threshold"
FLAGGED = _OURS + "_flagged"
LENGTH_UNSEEN = _OURS + "_length_unseen"
COLUMNS = _OURS + "_columns/"
SPAN = _OURS + "_span"
SPAN_ATTENTION = _OURS + "_span_attention"
ALARM = _OURS + "_alarm"
ALARM_SCORE = _OURS + "_alarm_score"
GIVEN_COLUMNS = _OURS + "_given_columns"

STEERING = frozenset({ENABLED, THRESHOLD, SPAN})
"""Inputs that a patch adds; none of them is data of the model."""

_FIRST, _SECOND = PREFIX + "first/", PREFIX + "second/"
_GATE_BRANCH = re.compile(r"/gate(?:\.\d+)?/(then|else)_branch$")
_NUMBER = re.compile(r"\.\d+$")


def make_name(owner: str, role: str, count: int = 0) -> str:
    """The name of a role's value; `count` tells apart several of one role."""
    return f"{PREFIX}{owner}/{role}" + (f".{count}" if count else "")


def first_run(name: str) -> str:
    """What an output of the model is called in the first of two runs."""
    return _FIRST + name


def second_run(name: str) -> str:
    """What a value of the model is called in the second run."""
    return _SECOND + name


def branch_name(node: str, branch: str) -> str:
    """The graph in a branch of one of our If nodes."""
    return f"{node}/{branch}"


def branch_of_gate(graph: str) -> str | None:
    """ "then" or "else" for the graph in a branch of a site's gate, else None."""
    found = _GATE_BRANCH.search(graph) if is_inserted(graph) else None
    return None if found is None else found[1]


def columns_output(site: str) -> str:
    """The output with the flagged columns of a site."""
    return COLUMNS + site


def is_ours(name: str) -> bool:
    """Whether a patch gave this name: to an input, an output or anything inside."""
    return name.startswith(_OURS)


def is_inserted(name: str) -> bool:
    """Whether a node or value inside the graph was put in by a patch."""
    return name.startswith(PREFIX)


def is_telemetry(name: str) -> bool:
    """Whether an output reports on requests, and is none of the model's own."""
    return name in (ALARM, ALARM_SCORE, FLAGGED, LENGTH_UNSEEN, SPAN_ATTENTION) or name.startswith(COLUMNS)


def owner_of(name: str) -> str:
    """The site, or the shared part, that a node or value belongs to; "" for one of the model's own."""
    return name.removeprefix(PREFIX).split("/", 1)[0] if is_inserted(name) else ""


def role_of(name: str) -> str:
    """The role without its number, in either run; "" for a value of the model's own."""
    name = name.removeprefix(_FIRST).removeprefix(_SECOND)
    return _NUMBER.sub("", name.rpartition("/")[2]) if is_inserted(name) else ""


def without_owner(name: str) -> str:
    """The rest of a name once its owner is known."""
    return name.removeprefix(f"{PREFIX}{owner_of(name)}/") if is_inserted(name) else name
