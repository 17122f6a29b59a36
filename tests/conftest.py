"""Fixtures that tests of files and commands share."""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before numpy or torch start their pools: tests run side by side on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from atpatch_onnx.cli import cli

from .marks import add_marks
from .schemas import problems, schema_of
from .tiny import attention_model

LONGEST = (
    "debugset/test_inversion",
    "fitting/test_fitter",
    "docs/test_documents",
    "rewriters/editing/test_second_pass",
    "patching/test_minilm",
    "exporters/test_exporter",
    "rewriters/finding/test_finder",
    "fitting/test_joint_training",
    "models/test_tools",
    "rewriters/lowering/test_attention_cases",
    "rewriters/editing/test_structure",
)
"""Files that take 20 seconds or more."""


def _one_thread(make: Callable[..., None]) -> Callable[..., None]:
    """A session that does not say how many threads it wants gets one. onnxruntime's choice is one for each core, and
    threads that wait for work keep their cores busy, which tests that run side by side do not have.
    """

    @functools.wraps(make)
    def made(self: Any, source: Any, sess_options: Any = None, *more: Any, **named: Any) -> None:
        options = onnxruntime.SessionOptions() if sess_options is None else sess_options
        options.intra_op_num_threads = options.intra_op_num_threads or 1
        make(self, source, options, *more, **named)

    return made


onnxruntime.InferenceSession.__init__ = _one_thread(onnxruntime.InferenceSession.__init__)


# Before `-m` looks at the marks, and again after pytest-randomly has shuffled.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Adds marks. Puts long files first, as one that begins last leaves a worker alone with it; the rest stays in
    random order.
    """
    add_marks([item for item in items if isinstance(item, pytest.Function)])
    yield
    files = {Path(__file__).parent / f"{name}.py" for name in LONGEST}
    items.sort(key=lambda item: item.path not in files)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Modules and collected tests stay to the end: no garbage is looked for among them, now or later. What torch and
    transformers make when they are first used stays too, and a look through all of it takes a third of a second.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        _let_torch_propagate()
        gc.freeze()
        gc.set_threshold(5_000, 10, 100)  # objects; looks at young ones; looks at middle-aged ones
        gc.enable()


def _let_torch_propagate() -> None:
    """Messages of torch get to the root logger. pytest hangs its two handlers into each logger that passes on nothing,
    in three phases of every test, and torch has fifty of those.
    """
    for name, logger in logging.root.manager.loggerDict.items():
        if name.split(".")[0] == "torch" and isinstance(logger, logging.Logger):
            logger.propagate = True


@pytest.hookimpl(tryfirst=True)  # before fixtures
def pytest_runtest_setup(item: pytest.Item) -> None:
    """torch draws the same whatever ran before; pytest-randomly does this for `random` and numpy only.

    Only on the CPU, where tests draw: for other devices `torch.manual_seed` formats the stack, each time.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if (seed := config.getoption("randomly_seed", None)) is not None:
        terminalreporter.write_line(f"order: --randomly-seed={seed}")


@dataclass(frozen=True)
class Run:
    """One run of the command line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a killed process or a library leaves among temporary files goes with pytest's own folders."""
    os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("temporary"))
    tempfile.tempdir = None


@pytest.fixture(scope="session")
def atpatch() -> Callable[..., Run]:
    """Runs the command line in this process; an exception that the command line lets through fails the test, and so
    does JSON that is not as the schema of the docs says.
    """

    def run(*arguments: object) -> Run:
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="atpatch-onnx")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        done = Run(result.exit_code, result.stdout, result.stderr)
        if "--json" in arguments and done.out:
            assert not problems(schema_of([str(argument) for argument in arguments]), done.json)
        return done

    return run


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    """A model file with two attention layers, the only file in its folder."""
    path = tmp_path / "model.onnx"
    onnx.save_model(attention_model(layers=2), path)
    return path
