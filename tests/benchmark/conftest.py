"""One set of files for all tests of the bench."""

from __future__ import annotations

import pytest

from .case import Case


@pytest.fixture(scope="session")
def case(tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("bench"))
