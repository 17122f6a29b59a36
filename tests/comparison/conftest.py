"""One set of files for all tests of `compare`."""

from __future__ import annotations

import pytest

from atpatch_onnx import Comparison, compare

from .case import Case


@pytest.fixture(scope="session")
def case(tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="session")
def comparison(case) -> Comparison:
    """With everything in it."""
    return compare(
        case.model,
        case.patched,
        case.clean,
        triggered=case.triggered,
        flips=case.flips,
        group="sex",
        also={"silent": case.silent},
        threads=1,
        batch=16,
        seconds=0.02,
    )
