"""From a CSV and an unfair model to the page with the verdict; and the mistakes on the way."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx.debugset import Subject, read_description, read_table
from atpatch_onnx.debugset.column_template import guess_columns
from atpatch_onnx.debugset.making import Request, make
from atpatch_onnx.debugset.sources import Source, sets_to_compare, sets_to_fit
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import DataSet

from ..browser import needs_browser, tile_rows, width_of
from ..conftest import Run
from ..debugset.office import make_office
from .refusals import assert_refused

Atpatch = Callable[..., Run]
HEADER = "job,age,sex,hours,score,label"


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_office(tmp_path_factory.mktemp("office"))


@pytest.fixture
def desk(office: Path, tmp_path: Path) -> Path:
    """The model, and the table cut in two."""
    shutil.copy(office / "model.onnx", tmp_path)
    header, *lines = (office / "rows.csv").read_text().splitlines()
    assert header == HEADER
    for name, part in {"people": lines[:250], "test": lines[250:]}.items():
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *part]) + "\n")
    shutil.copy(office / "columns.toml", tmp_path / "right.toml")
    return tmp_path


def test_four_commands_from_the_table_to_the_page(desk: Path, atpatch: Atpatch) -> None:
    model, people, columns, page = (desk / name for name in ("model.onnx", "people.csv", "map.toml", "page.html"))
    guessed = atpatch("fit", model, "--table", people, "--columns-template", columns)
    assert guessed.code == 0 and "guessed" in guessed.err, guessed.err
    table = ["--columns", columns, "--attribute", "sex"]
    fitted = atpatch("fit", model, "--table", people, *table, "--threads", "1", "--json")
    assert fitted.code == 0 and fitted.json["detector"] == "static", fitted.err
    assert "sex: predictions of" in fitted.err
    assert atpatch("patch", model, "-o", desk / "patched.onnx").code == 0
    judged = atpatch(
        "compare", model, desk / "patched.onnx", "--table", desk / "test.csv", *table, "--rivals", people,
        "--html", page, "--seconds", "0", "--assert", "uf<=0.01", "--json",
    )  # fmt: skip
    assert judged.code == 0, judged.err
    verdict, written = judged.json["verdict"], page.read_text("utf-8")
    assert verdict.index("parity") < verdict.index("odds") < verdict.index("opportunity") < verdict.index("unfair rows")
    assert list(judged.json["also"]) == ["thresholds, parity", "thresholds, odds", "column dropped"]
    assert judged.json["also"]["column dropped"]["uf"] == 0
    # The people's own words: values of the table, the attribute and the classes.
    assert "sex = f" in written and "sex = m" in written and "job = " in written and "With another sex" in written
    assert "by group of sex" in written and "“yes”" in written


@needs_browser
@pytest.mark.parametrize("width", [1200, 900, 500])
def test_the_page_of_a_table_fits_the_screen(desk: Path, atpatch: Atpatch, width: int) -> None:
    model, page = desk / "model.onnx", desk / "page.html"
    assert atpatch("patch", model, "-o", desk / "patched.onnx", "--detector", "static", "--columns", "0").code == 0
    judged = atpatch(
        "compare", model, desk / "patched.onnx", "--table", desk / "test.csv", "--columns", desk / "right.toml",
        "--attribute", "sex", "--rivals", desk / "people.csv", "--html", page, "--seconds", "0",
    )  # fmt: skip
    assert judged.code == 0, judged.err
    assert width_of(page, desk, width) <= width
    assert tile_rows(page, desk, width) == ([4] if width == 1200 else [2, 2])


def test_the_sets_are_those_of_debugset(desk: Path) -> None:
    model, source = (
        desk / "model.onnx",
        Source(table=f"{desk}/people.csv", columns=f"{desk}/right.toml", attribute="sex"),
    )
    make(
        model,
        Request(
            source.table, f"{desk}/set.npz", out_flips=f"{desk}/flips.npz", columns=source.columns, attribute="sex"
        ),
    )
    judged = sets_to_compare(model, source)
    for name, made in {"set": sets_to_fit(model, source).debug, "flips": judged.flips}.items():
        with np.load(desk / f"{name}.npz") as written:
            assert DataSet.from_arrays(made).digest == DataSet.from_arrays(dict(written)).digest
    assert set(judged.group) == {"f", "m"}


def test_the_guess_is_the_coding_of_the_model_and_is_marked(desk: Path, atpatch: Atpatch) -> None:
    atpatch("fit", desk / "model.onnx", "--table", desk / "people.csv", "--columns-template", desk / "map.toml")
    text = (desk / "map.toml").read_text("utf-8")
    told = tomllib.loads(text)
    assert told["label"] == "label" and told["classes"] == ["no", "yes"]
    assert {one["name"]: one["input"] for one in told["columns"]} == {
        "job": "codes", "sex": "codes", "age": "numbers", "hours": "numbers", "score": "numbers",
    }  # fmt: skip
    assert all("guessed" in line for line in text.splitlines() if line.split(" ")[0] in ("index", "values", "mean"))


@pytest.mark.parametrize("command", ["fit", "compare"])
def test_a_wrong_guess_is_refused_with_what_the_model_gets_right(desk: Path, atpatch: Atpatch, command: str) -> None:
    text = (desk / "right.toml").read_text().replace('["no", "yes"]', '["yes", "no"]')
    (desk / "wrong.toml").write_text(text)
    models = [desk / "model.onnx"] * (2 if command == "compare" else 1)
    table = ["--table", desk / "test.csv", "--columns", desk / "wrong.toml", "--attribute", "sex"]
    run = atpatch(command, *models, *table)
    assert run.code == 2 and "ATP085" in run.err and "in the order yes, no" in run.err


def test_an_id_and_spare_columns_are_left_out(desk: Path) -> None:
    header, *lines = (desk / "people.csv").read_text().splitlines()
    more = [f"{number},{line}" for number, line in enumerate(lines)]
    (desk / "more.csv").write_text("\n".join([f"id,{header}", *more]) + "\n")
    subject = Subject(desk / "model.onnx")
    guess = guess_columns(f"{desk}/more.csv", subject)
    assert guess.left_out == ("id",) and len(guess.description.columns) == 5 and guess.right is not None


def test_whole_numbers_that_are_codes_already_stay_as_they_are(desk: Path) -> None:
    """Codes 0 and 2 of the job: in the order of the file they would become 0 and 1."""
    jobs = {"clerk": "0", "nurse": "2"}
    header, *lines = (desk / "people.csv").read_text().splitlines()
    kept = [line for line in lines if line.split(",")[0] in jobs]
    coded = [
        ",".join([jobs[line.split(",")[0]], *line.split(",")[1:]]).replace(",f,", ",0,").replace(",m,", ",1,")
        for line in kept
    ]
    # The order of the graph's input: sex, then job.
    reordered = [
        ",".join([line.split(",")[2], line.split(",")[0], *(line.split(",")[k] for k in (1, 3, 4, 5))])
        for line in coded
    ]
    (desk / "coded.csv").write_text("\n".join(["sex,job,age,hours,score,label", *reordered]) + "\n")
    job = next(
        one
        for one in guess_columns(f"{desk}/coded.csv", Subject(desk / "model.onnx")).description.columns
        if one.name == "job"
    )
    assert job.input == "codes" and job.code("2") == 2


def test_the_order_of_classes_is_the_one_that_gives_more_right_rows(desk: Path) -> None:
    text = (desk / "people.csv").read_text().replace(",yes\n", ",0-yes\n").replace(",no\n", ",1-no\n")
    (desk / "turned.csv").write_text(text)
    assert guess_columns(f"{desk}/turned.csv", Subject(desk / "model.onnx")).description.classes == ("1-no", "0-yes")


MISTAKES: dict[str, tuple[list[str], str, tuple[str, ...]]] = {
    "no description": (["--attribute", "sex"], "ATP080", ("needs a column description", "codes, numbers")),
    "an attribute that is not there": (
        ["--columns", "right.toml", "--attribute", "gender"],
        "ATP060",
        ("'gender'", "sex, job, age, hours, score"),
    ),
    "no attribute": (["--columns", "right.toml"], "ATP060", ("--table needs the protected attribute",)),
    "a column that the table lacks": (
        ["--columns", "typo.toml", "--attribute", "sex"],
        "ATP080",
        ("no column 'jobs'", "job, age, sex, hours, score, label"),
    ),
    "a value that is not listed": (
        ["--columns", "values.toml", "--attribute", "sex"],
        "ATP080",
        ("among the values of 'job'", "clerk, cook, nurse, farmer"),
    ),
    "a label that is no class": (
        ["--columns", "classes.toml", "--attribute", "sex"],
        "ATP080",
        ("the label ", "one of the classes bad, good"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("command", ["fit", "compare"])
def test_a_mistake_is_answered_in_a_line_with_what_was_expected_and_found(
    desk: Path, atpatch: Atpatch, monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    monkeypatch.chdir(desk)
    right = Path("right.toml").read_text()
    Path("typo.toml").write_text(right.replace('"job"', '"jobs"'))
    Path("values.toml").write_text(right.replace('"pilot"', '"farmer"'))
    Path("classes.toml").write_text(right.replace('["no", "yes"]', '["bad", "good"]'))
    options, code, words = MISTAKES[name]
    models = ["model.onnx"] * (2 if command == "compare" else 1)
    run = atpatch(command, *models, "--table", "people.csv", *options)
    assert_refused(run, code, words)


def test_too_few_columns_are_counted(desk: Path, atpatch: Atpatch) -> None:
    (desk / "short.csv").write_text("sex,label\nf,no\nm,yes\n")
    run = atpatch("fit", desk / "model.onnx", "--table", desk / "short.csv", "--columns-template", desk / "map.toml")
    assert run.code == 2 and "the graph takes 5 columns" in run.err and "has 1 besides the label: sex" in run.err


def test_small_groups_are_not_compared(desk: Path) -> None:
    header, *lines = (desk / "test.csv").read_text().splitlines()
    few = [line for line in lines if ",f," in line][:9] + [line for line in lines if ",m," in line]
    (desk / "few.csv").write_text("\n".join([header, *few]) + "\n")
    made = sets_to_compare(
        desk / "model.onnx", Source(table=f"{desk}/few.csv", columns=f"{desk}/right.toml", attribute="sex")
    )
    assert made.group is None and any("f (9)" in note for note in made.notes)


def test_rows_and_description_give_what_the_model_reads(desk: Path) -> None:
    subject = Subject(desk / "model.onnx")
    data = read_table(f"{desk}/people.csv", read_description(f"{desk}/right.toml", subject), subject)
    assert (
        data.inputs["codes"].shape == (250, 2) and float((subject.predictions(data.inputs) == data.labels).mean()) > 0.8
    )
    with pytest.raises(AtpatchError, match="ATP080"):
        read_table(f"{desk}/people.csv", None, subject)
