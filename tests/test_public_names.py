"""The public face: names like the commands', docstrings that say what a stranger has to know, short `repr`s."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from ast import literal_eval
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser

import onnx
import pytest

import atpatch_onnx
from atpatch_onnx.benchmark.paired_latency import Spread
from atpatch_onnx.benchmark.result import Interval, Timed
from atpatch_onnx.cli import COMMANDS
from atpatch_onnx.hotfix.file import HotfixSite
from rewriters.plan import SitePlan, Static
from rewriters.summary import ROWS, WIDTH, Summarized, some

from .comparison.case import classifier, rows

PUBLIC = {name: getattr(atpatch_onnx, name) for name in atpatch_onnx.__all__}
FUNCTIONS = [name for name, value in PUBLIC.items() if inspect.isfunction(value)]
CLASSES = [name for name, value in PUBLIC.items() if inspect.isclass(value)]
FORMER = {
    "inspect_model": "inspect",
    "explain_site": "explain",
    "extract_site": "extract",
    "diff_models": "diff",
    "patch_model": "patch",
    "unpatch_model": "unpatch",
    "export_model": "export",
}
HOSTILE = "<script>alert('x')</script>\n\x1b[31m&\n\n\n\u202eno" + "a" * 500


# Names


def test_functions_are_called_as_the_commands_are():
    commands = {"inspect", "fit", "patch", "unpatch", "compare", "bench", "export", "diff", "extract", "explain"}
    assert commands <= set(FUNCTIONS) & set(COMMANDS)
    assert "analyze_log" in FUNCTIONS


@pytest.mark.parametrize(("former", "name"), FORMER.items())
def test_former_names_go_on_working(former, name):
    assert getattr(atpatch_onnx, former) is PUBLIC[name]
    assert PUBLIC[name].__name__ == name


def test_the_import_loads_nothing_else():
    script = "import sys; before = set(sys.modules); import atpatch_onnx; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    ours = [name for name in literal_eval(done.stdout) if name.split(".")[0] not in sys.stdlib_module_names]
    assert ours == ["atpatch_onnx", "atpatch_onnx.version"]


# Docstrings


def section(text: str, title: str) -> str:
    """The lines under a title, to the next empty line."""
    return text.partition(f"{title}:")[2].partition("\n\n")[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_explains_its_arguments_its_result_and_its_errors(name):
    text = inspect.getdoc(PUBLIC[name]) or ""
    explained = re.findall(r"^    ([\w, ]+): ", section(text, "Args"), flags=re.MULTILINE)
    words = {word.strip() for group in explained for word in group.split(",")}
    assert words == set(inspect.signature(PUBLIC[name]).parameters)
    assert section(text, "Returns").strip()
    assert re.search(r"ATP\d{3}|never", section(text, "Raises"))


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_explains_its_fields_and_methods(name):
    kind = PUBLIC[name]
    text = inspect.getdoc(kind) or ""
    assert len(text.splitlines()[0]) > 10
    if is_dataclass(kind):
        explained = re.findall(r"^    ([\w, ]+): ", section(text, "Attributes"), flags=re.MULTILINE)
        words = {word.strip() for group in explained for word in group.split(",")}
        assert words >= {field.name for field in fields(kind) if not field.name.startswith("_")}
    for method, value in vars(kind).items():
        if not method.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
            assert inspect.getdoc(getattr(kind, method)), method


def test_help_lists_every_public_name():
    script = "import pydoc, atpatch_onnx; print(pydoc.plain(pydoc.render_doc(atpatch_onnx)))"
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    for name in FUNCTIONS:
        assert re.search(rf"^    {name}\(", shown, flags=re.MULTILINE), name
    for name in CLASSES:
        assert re.search(rf"^    class {name}\(", shown, flags=re.MULTILINE), name


# What results show of themselves


def hotfix() -> atpatch_onnx.Hotfix:
    rates = {
        "before": {"asr_star": {"rate": 1.0}},
        "after": {"asr_star": {"rate": 0.02}},
        "clean_flagged": {"rate": 0.003},
    }
    sites = tuple(HotfixSite(HOSTILE + str(n), n, None, "f" * 16, SitePlan(Static((n,)))) for n in range(9))
    return atpatch_onnx.Hotfix(sites, 0.5, "w" * 64, evidence={"report": rates})


def benchmark() -> atpatch_onnx.Bench:
    timed = Timed({}, "clean", None, None, Spread(1.0, 0.9, 1.1), Spread(2.0, 1.9, 2.1), Interval(2.0, 1.9, 2.1), 10)
    return atpatch_onnx.Bench((HOSTILE, None), (timed,), None, HOSTILE, 1, {})


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Summarized]:
    """One result of each kind, with a stranger's names wherever names go."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save_model(classifier(), path)
    found = atpatch_onnx.inspect(path)
    site = replace(found.sites[0], id=HOSTILE, softmax=HOSTILE, matmul=HOSTILE, scope=HOSTILE)
    rejection = atpatch_onnx.Rejection(HOSTILE, HOSTILE, HOSTILE)
    patched = atpatch_onnx.patch(path, detector="static", columns=(1,))
    comparison = atpatch_onnx.compare(path, patched.output, {"x": rows(6)}, seconds=0, exemplar=False, threads=1)
    return {
        "Site": site,
        "Inspection": replace(found, model={**found.model, "path": HOSTILE}, sites=(site,) * 9, rejected=(rejection,)),
        "Hotfix": hotfix(),
        "Patched": replace(patched, output=HOSTILE, sites=(HOSTILE,) * 9, hotfix=HOSTILE),
        "Comparison": comparison,
        "Bench": benchmark(),
        "Exported": atpatch_onnx.Exported(
            HOSTILE, (HOSTILE,), HOSTILE, HOSTILE, "dynamo", None, 18, "float32", {}, {}, {}, 1e-4, (HOSTILE,), 0, 1.0
        ),
    }


RESULTS = ("Site", "Inspection", "Hotfix", "Patched", "Comparison", "Bench", "Exported")


class Page(HTMLParser):
    """Tags and text of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_shows_itself_in_five_lines(results, name):
    shown = repr(results[name])
    assert shown.splitlines() == shown.split("\n")
    assert shown.splitlines()[0] == name
    assert 2 <= len(shown.splitlines()) <= ROWS + 1
    assert all(line.isprintable() and len(line) < WIDTH + 20 for line in shown.splitlines())


@pytest.mark.parametrize("name", RESULTS)
def test_in_a_notebook_names_are_text_and_never_markup(results, name):
    page = Page(results[name]._repr_html_())
    assert page.tags == {"table", "caption", "tr", "th", "td"}
    assert page.text[0] == name
    values = [line.partition("  ")[2] for line in (line.strip() for line in repr(results[name]).splitlines()[1:])]
    assert [text.strip() for text in page.text[2::2]] == [value.strip() for value in values]


def test_a_hotfix_shows_what_it_does_to_rows_that_nothing_was_chosen_by():
    assert "ASR* 100.0% → 2.0%, clean rows flagged 0.3%" in repr(hotfix())
    assert "static at 9: " in repr(hotfix())


def test_a_hotfix_without_figures_shows_itself_too():
    assert "no figures" in repr(replace(hotfix(), evidence={}))


@pytest.mark.parametrize("report", [3, "x", {"before": [], "after": {}}, {"clean_flagged": {"rate": "many"}}])
def test_a_hotfix_whose_figures_are_nonsense_shows_itself_too(report):
    assert "that 'fit' does not write" in repr(replace(hotfix(), evidence={"report": report}))


def test_a_comparison_shows_its_verdict_first(results):
    assert repr(results["Comparison"]).splitlines()[1].split(maxsplit=1)[1] == results["Comparison"].verdict()


@pytest.mark.parametrize(
    ("names", "shown"), [("", "none"), ("a", "1: a"), ("abcd", "4: a, b, c, d"), ("abcde", "5: a, b, c, d, …")]
)
def test_the_first_names_stand_for_all(names, shown):
    assert some(names) == shown
