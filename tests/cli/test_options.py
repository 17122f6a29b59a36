"""Options of a function: one frozen dataclass, the keywords it takes, and what the command line makes of both."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any, ForwardRef

import click
import pytest
from click.testing import CliRunner

import atpatch_onnx
from atpatch_onnx.benchmark.options import BenchKeywords, BenchOptions
from atpatch_onnx.cli import cli
from atpatch_onnx.cli.options import options_of
from atpatch_onnx.comparison.options import CompareKeywords, CompareOptions
from atpatch_onnx.deploy import deploy_ray
from atpatch_onnx.deploy.options import RayKeywords, RayOptions
from atpatch_onnx.exporters.options import ExportKeywords, ExportOptions
from atpatch_onnx.fitting.options import FitKeywords, FitOptions
from atpatch_onnx.hotfix.file import Hotfix
from atpatch_onnx.hotfix.options import PatchKeywords, PatchOptions, PlanKeywords
from atpatch_onnx.options import explanations, option

# Command → its options; what the command line has in another form, or not at all.
GROUPS: dict[str, tuple[type, type, set[str]]] = {
    "patch": (PatchOptions, PatchKeywords, set()),
    "fit": (FitOptions, FitKeywords, set()),
    "compare": (CompareOptions, CompareKeywords, {"classes", "providers", "exemplar", "names"}),
    "bench": (BenchOptions, BenchKeywords, {"provider", "seed"}),
    "export": (ExportOptions, ExportKeywords, set()),
    "deploy ray": (RayOptions, RayKeywords, set()),
}
ARGUMENTS = {
    "patch": ["model.onnx"],
    "fit": ["model.onnx"],
    "compare": [],
    "bench": ["model.onnx", "patched.onnx"],
    "export": ["model", "-o", "model.onnx"],
    "deploy ray": ["model.onnx", "patched.onnx", "folder"],
}
CALLS: dict[str, tuple[Callable[..., Any], int]] = {
    "patch": (atpatch_onnx.patch_model, 1),
    "fit": (atpatch_onnx.fit, 2),
    "compare": (atpatch_onnx.compare, 3),
    "bench": (atpatch_onnx.bench, 2),
    "export": (atpatch_onnx.export_model, 2),
    "deploy ray": (deploy_ray, 3),
}


def command_of(name: str) -> click.Command:
    first, _, second = name.partition(" ")
    command = cli.get_command(None, first)  # type: ignore[arg-type]
    return command.commands[second] if second else command  # type: ignore[union-attr]


def annotation(kind: Any) -> str:
    return kind.__forward_arg__ if isinstance(kind, ForwardRef) else str(kind)


@pytest.mark.parametrize("name", GROUPS)
def test_keywords_are_those_of_the_dataclass_with_the_same_types(name):
    """What type checkers and editors know of a call is what the call takes."""
    options, keywords, _ = GROUPS[name]
    known = {word: annotation(kind) for word, kind in keywords.__annotations__.items()}
    assert known == {one.name: one.type for one in fields(options)}


@pytest.mark.parametrize("name", GROUPS)
def test_every_option_is_explained_once(name):
    options, _, _ = GROUPS[name]
    texts = explanations(options)
    assert list(texts) == [one.name for one in fields(options)]
    assert all(text.endswith(".") and "  " not in text for text in texts.values())


@pytest.mark.parametrize("name", GROUPS)
def test_the_command_line_has_every_option_with_its_explanation_and_default(name):
    options, _, otherwise = GROUPS[name]
    command = command_of(name)
    known = {parameter.name: parameter for parameter in command.params}
    given = command.make_context(name, ARGUMENTS[name]).params
    for one in fields(options):
        if one.name in otherwise:
            continue
        text = explanations(options)[one.name]
        assert known[one.name].help == text[0].upper() + text[1:]
        assert known[one.name].opts == ["--" + one.name.replace("_", "-")]
        assert given[one.name] == one.default


@pytest.mark.parametrize("name", GROUPS)
def test_options_are_frozen(name):
    made = GROUPS[name][0]()
    with pytest.raises(FrozenInstanceError):
        setattr(made, fields(made)[0].name, None)


@pytest.mark.parametrize("name", CALLS)
def test_a_keyword_that_is_no_option_is_refused(name):
    function, arguments = CALLS[name]
    with pytest.raises(TypeError, match="unexpected keyword argument 'thresold'"):
        function(*["model.onnx"] * arguments, thresold=0.5)


@pytest.mark.parametrize("name", CALLS)
def test_no_function_lists_more_than_ten_parameters(name):
    assert len(inspect.signature(CALLS[name][0]).parameters) <= 10


def test_a_plan_takes_no_option_that_it_would_not_heed():
    with pytest.raises(TypeError, match="unexpected keyword argument 'include'"):
        Hotfix((), 0.5, "").plan((), None, include="layers.0")
    assert PlanKeywords.__annotations__.keys() < PatchKeywords.__annotations__.keys()


# What the command line makes of a field


@dataclass(frozen=True, kw_only=True)
class Baking:
    """How a cake is baked.

    Attributes:
        minutes: time in the oven, at most;
            longer for large ones.
        heat: of the air.
        top: sugar or nuts.
        fan: use it.
        sizes: of the tins: 20,24.

    Raises:
        ValueError: never.
    """

    minutes: int = option(40, at_least=1)
    heat: float | None = None
    top: str | None = option(None, choices=("sugar", "nuts"))
    fan: bool = False
    sizes: tuple[int, ...] | None = option(None, metavar="LIST", parse=lambda text: tuple(map(int, text.split(","))))


@pytest.fixture
def bake() -> Callable[..., Any]:
    @click.command()
    @options_of(Baking)
    def command(**options: Any) -> None:
        print(Baking(**options))  # noqa: T201

    return lambda *arguments: CliRunner().invoke(command, arguments)


def test_no_argument_gives_the_defaults(bake):
    assert bake().output == f"{Baking()}\n"


def test_arguments_become_values_of_their_types(bake):
    made = Baking(minutes=50, heat=180.5, top="nuts", fan=True, sizes=(20, 24))
    given = ("--minutes", "50", "--heat", "180.5", "--top", "nuts", "--fan", "--sizes", "20,24")
    assert bake(*given).output == f"{made}\n"


@pytest.mark.parametrize("wrong", [("--minutes", "0"), ("--heat", "hot"), ("--top", "salt"), ("--sizes", "big")])
def test_what_is_out_of_range_is_a_usage_error(bake, wrong):
    assert bake(*wrong).exit_code == 2


def test_help_has_the_explanation_the_default_and_the_placeholder(bake):
    shown = " ".join(bake("--help").output.split())
    assert "Time in the oven, at most; longer for large ones. [default: 40; x>=1]" in shown
    assert "--sizes LIST" in shown and "[sugar|nuts]" in shown


def test_an_explanation_ends_where_its_section_ends():
    assert explanations(Baking)["sizes"] == "of the tins: 20,24."
    assert explanations(PatchOptions)["force"] == "use a hotfix that was made for another model."


def test_options_that_are_left_out_are_not_there():
    @click.command()
    @options_of(Baking, but={"fan"})
    def command(**options: Any) -> None:
        pass

    assert "fan" not in {parameter.name for parameter in command.params}
