"""`inspect --explain` and `inspect --html`: what they show is what the finder went along, for sites, rejections and
fused operators.
"""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser

import onnx
import pytest
from onnx import TensorProto, helper

import atpatch_onnx
from atpatch_onnx.cli.chain import picture
from atpatch_onnx.hotfix.plans import UNTRAINED
from atpatch_onnx.inspection.explanation import explain_model
from atpatch_onnx.inspection.page import sites_page
from rewriters.api import trace_sites
from rewriters.editing.patcher import patch
from rewriters.finding import finder
from rewriters.finding.finder import find_sites
from rewriters.lowering import FUSED
from rewriters.plan import PatchPlan, SitePlan

from ..exports import export_model
from ..rewriters.patterns import PATTERNS
from ..tiny import attention_model, plain_model, snapshot

PATTERN = {pattern.id: pattern.model for pattern in PATTERNS}
EXPORTS = [
    ("bert", "dynamo", "sdpa"),
    ("t5", "torchscript", "eager"),
    ("deberta-v2", "torchscript", "eager"),
    ("swin", "dynamo", "eager"),
]
BOX = re.compile(r"^ *[│┃║] *(\w+) *[│┃║]")


def boxes(trace) -> list[str]:
    """Operator types in the boxes of the picture in text, from the top."""
    return [match[1] for line in picture(trace) if (match := BOX.match(line.plain))]


def drawn(svg: str) -> list[str]:
    """Operator types in the boxes of the picture in SVG, from the top."""
    return re.findall(r'<text class="name"[^>]*>([^<]+)', svg)


@pytest.fixture(scope="module", params=EXPORTS, ids="-".join)
def exported(request) -> onnx.ModelProto:
    return onnx.load(export_model(*request.param).path)


# The trace


@pytest.mark.parametrize("name", PATTERN)
def test_a_trace_is_the_finders_own_chain(name):
    sites, rejected = find_sites(PATTERN[name])
    traces = trace_sites(PATTERN[name]).traces
    assert tuple(trace.site for trace in traces if trace.site) == sites
    assert tuple(trace.rejection for trace in traces if trace.rejection) == rejected
    for trace in traces:
        if trace.site:
            assert tuple(step.op_type for step in trace.steps) == trace.site.chain
            # the site's own name for it, or the edge into the product where that lies in another body
            if trace.read_at is not None:
                named = trace.steps[trace.read_at].output.name == trace.site.probabilities
                assert named or (trace.read_at == len(trace.steps) - 2 and trace.steps[-1].body != trace.body)


@pytest.mark.parametrize("name", PATTERN)
def test_every_value_in_a_trace_is_wired_as_in_the_model(name):
    """A side is an input of its operator at its own position; what goes on is an output."""
    nodes = {}
    for body in (PATTERN[name].graph, *PATTERN[name].functions):
        nodes |= {output: node for node in _nested(body.node) for output in node.output}
    for trace in trace_sites(PATTERN[name]).traces:
        for step in trace.steps:
            node = nodes[step.output.name]
            assert node.op_type == step.op_type
            assert [node.input[side.operand] for side in step.sides] == [side.edge.name for side in step.sides]


def _nested(nodes):
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _nested(attribute.g.node)


@pytest.mark.parametrize(("name", "queries", "keys"), [
    ("01-bert-eager", "q", "k"),
    ("16-vae-transposed", "q", "k"),
    ("19-transpose-around-softmax", "q", "k"),
    ("15-einsum-keys-first", "q", "k"),
    ("12-gemma-softcap", "q", "k"),
    ("23-qlinear-both-products", "q", "k"),
])  # fmt: skip
def test_queries_and_keys_are_told_apart_by_the_normalized_axis(name, queries, keys):
    (trace,) = trace_sites(PATTERN[name]).traces
    roles = {side.role: side.edge.inputs for side in trace.steps[0].sides}
    assert (roles["queries"], roles["keys"]) == ((queries,), (keys,))
    (values,) = [side for side in trace.steps[-1].sides if side.role == "values"]
    assert values.edge.inputs == ("v",)


def test_a_side_says_which_graph_inputs_it_comes_from(exported):
    for trace in trace_sites(exported).traces:
        if trace.site.key_mask:
            behind = [side.edge.inputs for step in trace.steps[1:-1] for side in step.sides]
            assert (trace.site.key_mask,) in behind


@pytest.mark.parametrize(("name", "direction", "path", "end"), [
    ("28-talking-heads", "forward", ["Transpose"], "MatMul"),
    ("not-class-head", "forward", [], ""),
    ("not-sampling", "forward", [], "CumSum"),
    ("not-linear-attention-conv", "backward", ["Reshape"], "Conv"),
    ("not-pooling-by-a-learned-vector", "backward", ["Transpose"], "MatMul"),
    ("not-from-a-product", "backward", [], ""),
])  # fmt: skip
def test_a_rejection_tells_where_the_walk_ended(name, direction, path, end):
    (trace,) = trace_sites(PATTERN[name]).traces
    (reported,) = [found for found in trace.ends if found.reported]
    assert (reported.direction, [step.op_type for step in reported.steps], reported.op_type) == (direction, path, end)
    assert reported.code == trace.rejection.code


@pytest.mark.parametrize(
    "name", [name for name in PATTERN if any(site.form in FUSED for site in find_sites(PATTERN[name])[0])]
)
def test_what_takes_the_place_of_a_fused_operator_is_what_patching_writes(name):
    model = PATTERN[name]
    sites, _ = find_sites(model)
    patched = patch(model, PatchPlan({site.id: SitePlan(UNTRAINED) for site in sites}), sites)
    written = {node.op_type for node in _nested(patched.graph.node)}
    for trace in trace_sites(model).traces:
        made = {output for _, outputs in trace.lowered.nodes for output in outputs}
        assert {trace.lowered.map, trace.lowered.values, trace.lowered.output} <= made | set(_names(model))
        assert {op_type for op_type, _ in trace.lowered.nodes} <= written


def _names(model):
    return [name for node in model.graph.node for name in (*node.input, *node.output)]


def test_a_malformed_model_is_traced_as_unreadable():
    model = attention_model()
    model.graph.node[0].input[0] = ""
    model.graph.node.append(model.graph.node[0])
    traces = finder.trace_sites(model).traces
    assert [trace.verdict for trace in traces] == [verdict for found in find_sites(model) for verdict in found]
    assert traces and all(trace.rejection is not None and trace.rejection.code == "unreadable" for trace in traces)


# The numbers of inserted nodes


def test_counts_of_inserted_nodes_are_those_of_a_patch(exported):
    sites, _ = find_sites(exported)
    patched = patch(exported, PatchPlan({site.id: SitePlan(UNTRAINED) for site in sites}), sites)
    added = len(list(_nested(patched.graph.node))) - len(list(_nested(exported.graph.node)))
    insertions = [e.insertion for e in explain_model(exported).found if e.insertion]
    # A product that stays is counted in its branch as well; it is not new.
    assert sum(i.outside + i.flagged + i.unflagged for i in insertions) == added + len(sites)


def test_a_site_that_cannot_be_patched_says_why():
    model = attention_model(opset=10)
    (found,) = explain_model(model).found
    assert found.insertion.refused.startswith("ATP006")
    assert "refused, ATP006" in dict(atpatch_onnx.inspection.explanation.facts_of(found))["patch"]


# --explain


def test_explain_prints_every_sites_chain_in_order(exported):
    for trace in trace_sites(exported).traces:
        assert boxes(trace) == list(trace.site.chain)


@pytest.mark.parametrize("name", PATTERN)
def test_explain_draws_every_pattern(name):
    for trace in trace_sites(PATTERN[name]).traces:
        text = "\n".join(line.plain for line in picture(trace))
        ahead = [end for end in trace.ends if end.direction == "backward"]
        before = [(end.op_type or "outside", *(step.op_type for step in end.steps)) for end in ahead]
        assert boxes(trace) == [*(name for way in before for name in way), *(step.op_type for step in trace.steps)]
        if trace.site:
            assert text.count("the patch takes its place") == 1
            assert text.count("the detector reads here") == 1
        else:
            assert "the patch takes its place" not in text
            assert all(f"✗ {end.code}" in text for end in trace.ends)


def test_explain_shows_shapes_roles_and_the_mask(tmp_path, atpatch):
    path = export_model("bert", "torchscript", "eager").path
    site = atpatch("inspect", path, "--json").json["sites"][1]["id"]
    report = atpatch("inspect", path, "--explain", site)
    assert (report.code, report.out) == (0, "")
    assert re.search(r"║ ◀── values +float \(\?, 4, \?, 8\)", report.err)
    assert re.search(r"│ ◀── added .* from attention_mask  \(key mask\)", report.err)
    assert re.search(r"key mask +attention_mask", report.err)
    assert re.search(r"attention +queries and keys are the same tokens", report.err)


@pytest.mark.parametrize(
    "name", ["vit.layers.2.attention", "/vit/layers.2/attention/Softmax", "/vit/layers.2/attention/MatMul_1_output_0"]
)
def test_explain_takes_ids_nodes_and_values(atpatch, name):
    found = atpatch("inspect", "atpatch_onnx/demo/digits/model.onnx", "--explain", name, "--json").json
    assert set(found) == {"model", "sites", "rejected", "explain"}
    explained = found["explain"]
    assert explained["site"]["id"] == "vit.layers.2.attention"
    assert [step["op_type"] for step in explained["steps"]] == ["MatMul", "Mul", "Softmax", "Cast", "Cast", "MatMul"]
    assert explained["patch"]["unflagged"] == 1
    assert explained["patch"]["flagged"] > 10


def test_explain_of_a_rejected_softmax(tmp_path, atpatch):
    onnx.save_model(PATTERN["not-sampling"], tmp_path / "m.onnx")
    report = atpatch("inspect", tmp_path / "m.onnx", "--explain", "softmax_1", "--json")
    assert report.code == 0
    explained = report.json["explain"]
    assert explained["rejected"]["code"] == "no-product"
    assert explained["patch"] is None
    assert [(end["op_type"], end["code"]) for end in explained["ends"]] == [("CumSum", "no-product"), ("", "output")]
    people = atpatch("inspect", tmp_path / "m.onnx", "--explain", "softmax_1")
    assert "├─▶ CumSum ─▶ ✗ no-product" in people.err
    assert "└─▶ Where ─▶ ✗ output: leaves the graph as out" in people.err


def test_explain_of_an_unknown_name_suggests(model_path, atpatch):
    ids = [site["id"] for site in atpatch("inspect", model_path, "--json").json["sites"]]
    report = atpatch("inspect", model_path, "--explain", ids[0] + "x")
    assert report.code == 2
    assert "ATP058" in report.err
    assert ids[0] in report.err
    onnx.save_model(plain_model(), model_path)
    assert "it has none" in atpatch("inspect", model_path, "--explain", "x").err


def test_explain_of_a_patched_model_shows_the_original(model_path, atpatch):
    site = atpatch("inspect", model_path, "--json").json["sites"][0]["id"]
    patched = atpatch("patch", model_path, "--detector", "statistic", "--json").json["output"]
    asked = [atpatch("inspect", path, "--explain", site, "--json").json["explain"] for path in (model_path, patched)]
    assert asked[0] == asked[1]


def test_names_from_a_file_cannot_inject(tmp_path, atpatch):
    model = attention_model()
    for node in model.graph.node:
        if node.op_type == "Softmax":
            node.name = "\x1b[31m<script>alert(1)</script>"
    onnx.save_model(model, tmp_path / "m.onnx")
    site = atpatch("inspect", tmp_path / "m.onnx", "--json").json["sites"][0]["id"]
    report = atpatch("inspect", tmp_path / "m.onnx", "--explain", site, "--html", tmp_path / "p.html")
    assert "\x1b[31m" not in report.err
    assert "<script" not in (tmp_path / "p.html").read_text("utf-8")


# --html


class Reader(HTMLParser):
    """Links, ids and loaded things of a page; complains where tags are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br"):
            self._open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            elif name == "href":
                self.links.append(value)
            elif name in ("src", "srcset", "data", "action"):
                self.loads.append(value)
        if tag in ("script", "link", "iframe", "object"):
            self.loads.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_the_page_needs_nothing_from_outside(exported):
    html = sites_page(exported)
    page = Reader(html)
    assert page.loads == []
    assert not re.search(r"https?:|url\(|@import", html)
    assert page.links
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_draws_every_site_in_order(exported):
    html = sites_page(exported)
    chains = [drawn(svg) for svg in re.findall(r'<svg class="chain" .*?</svg>', html, re.DOTALL)]
    sites, _ = find_sites(exported)
    assert chains == [list(site.chain) for site in sites]
    assert all(html.count(f"<code>{site.id}</code>") == 2 for site in sites)  # the table and the details


def test_marks_lie_in_execution_order_and_once_in_their_layer(exported):
    sites, _ = find_sites(exported)
    whole, *layers = re.findall(r'<svg class="lane.*?</svg>\n(?=<div|</div>)', sites_page(exported), re.DOTALL)
    places = [float(at) for at in re.findall(r'cx="([\d.]+)%"', whole)]
    assert len(places) == len(sites)
    assert places == sorted(places)
    assert sorted(float(at) for lane in layers for at in re.findall(r'cx="([\d.]+)%"', lane)) == places
    for lane in layers:
        stretches = [
            (float(x), float(w)) for x, w in re.findall(r'class="stretch" x="([\d.]+)%" y="8" width="([\d.]+)%"', lane)
        ]
        for at in re.findall(r'cx="([\d.]+)%"', lane):
            assert any(start <= float(at) <= start + width for start, width in stretches)


def test_the_page_lists_rejections_with_their_reason(tmp_path, atpatch):
    model = attention_model(layers=2)
    model.graph.node.append(helper.make_node("Softmax", ["y"], ["probabilities"], name="head"))
    model.graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["b", "s", 8]))
    onnx.save_model(model, tmp_path / "m.onnx")
    report = atpatch("inspect", tmp_path / "m.onnx", "--html", tmp_path / "new" / "sites.html")
    assert (report.code, report.out) == (0, "")
    html = (tmp_path / "new" / "sites.html").read_text("utf-8")
    (rejection,) = find_sites(model)[1]
    assert rejection.reason in unescape(html)
    assert "leaves the graph as probabilities" in html
    assert "2 attention sites; one Softmax rejected." in html
    assert html.count('class="cross"') == 1


@pytest.mark.parametrize("name", PATTERN)
def test_every_pattern_makes_a_well_formed_page(name):
    Reader(sites_page(PATTERN[name]))


def test_filters_leave_sites_off_the_page(exported):
    sites, _ = find_sites(exported)
    html = sites_page(exported, exclude=re.escape(sites[0].id) + "$")
    assert f"<code>{sites[0].id}</code>" not in html
    assert all(f"<code>{site.id}</code>" in html for site in sites[1:])


def test_the_page_is_never_written_over_the_model(model_path, atpatch):
    before = snapshot(model_path.parent)
    report = atpatch("inspect", model_path, "--html", model_path)
    assert (report.code, "ATP016" in report.err) == (2, True)
    assert snapshot(model_path.parent) == before


def test_the_page_without_jinja2_names_the_pip_line(model_path):
    script = f"""
import sys
sys.modules["jinja2"] = None
from atpatch_onnx.cli import main
sys.argv = ["atpatch-onnx", "inspect", {str(model_path)!r}, "--html", {str(model_path.with_name("p.html"))!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "ATP051" in done.stderr
    assert "pip install 'atpatch-onnx[report]'" in done.stderr
    assert not model_path.with_name("p.html").exists()


def test_json_and_page_together(model_path, atpatch):
    report = atpatch("inspect", model_path, "--html", model_path.with_name("p.html"), "--json")
    assert set(report.json) == {"model", "sites", "rejected"}
    assert model_path.with_name("p.html").exists()
