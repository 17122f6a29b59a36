"""The table of `make bench` and the scale of patching, on models small enough for tests."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from atpatch_onnx.hotfix.file import Hotfix
from models.bench.hotfixes import hotfix
from models.bench.llama import SHAPES, Llama, save_hollow, save_random
from models.bench.measuring import measure
from models.bench.rows import ROWS, Row
from models.bench.scale import _measure, draw, exponent
from models.bench.table import misses, render
from rewriters.finding.finder import find_sites

from ..benchmark.case import token_model

TINY = Llama(layers=3, width=32, inner=64, heads=4, words=99)


# The graphs of the scale


def test_a_llama_is_a_causal_model(tmp_path):
    save_random(TINY, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    sites, rejected = find_sites(model)
    assert ([site.heads for site in sites], rejected) == ([4, 4, 4], ())
    live = ort.InferenceSession(str(tmp_path / "m.onnx"))
    ids, mask = np.arange(12).reshape(2, 6), np.ones((2, 6), np.int64)
    later = ids.copy()
    later[:, 4] = 50
    first, second = (live.run(None, {"input_ids": tokens, "attention_mask": mask})[0] for tokens in (ids, later))
    assert np.array_equal(first[:, :4], second[:, :4])
    assert not np.allclose(first[:, 4:], second[:, 4:])
    hidden = mask.copy()
    hidden[:, 1] = 0
    masked, unread = (
        live.run(None, {"input_ids": tokens, "attention_mask": hidden})[0]
        for tokens in (ids, np.where(hidden, ids, 70))
    )
    np.testing.assert_allclose(masked[:, 2:], unread[:, 2:], atol=1e-5)


def test_layers_have_52_nodes_each(tmp_path):
    counts = []
    for layers in (1, 2):
        save_random(replace(TINY, layers=layers), tmp_path / "m.onnx")
        counts.append(len(onnx.load(tmp_path / "m.onnx").graph.node))
    assert counts[1] - counts[0] == 52


def test_real_shapes_have_their_parameters():
    assert SHAPES["7 B"].parameters == pytest.approx(6.74e9, rel=0.001)


@pytest.mark.slow
def test_a_hollow_model_is_patched_without_reading_its_weights(tmp_path):
    hollow = replace(SHAPES["1 B"], layers=2)
    save_hollow(hollow, tmp_path / "m.onnx")
    data = tmp_path / "m.onnx.data"
    assert data.stat().st_size == 2 * hollow.parameters
    assert data.stat().st_blocks * 512 < 1e6
    found = _measure("hollow", hollow)
    assert (found["sites"], found["detector"]) == (2, "profile")
    assert found["nodes_after"] > found["nodes"]
    assert found["peak_bytes"] < min(400e6, found["model_bytes"])


@pytest.mark.slow
def test_the_exponent_is_a_slope(tmp_path):
    many = [
        {"name": str(n), "nodes": n, "find_seconds": 3e-4 * n, "patch_seconds": 2.0 * n**2} for n in (100, 200, 400)
    ]
    assert exponent(many, "find_seconds") == pytest.approx(1)
    assert exponent(many, "patch_seconds") == pytest.approx(2)
    large = [{"name": "1 B", "model_bytes": 2e9, "patch_seconds": 1.0, "peak_bytes": 1e8}]
    draw({"nodes": many, "bytes": large}, tmp_path / "a.svg")
    draw({"nodes": many, "bytes": large}, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


# The table

SMALL = Row("tiny", "tiny", ({"batch": 8, "sequence": 16},), ROWS[-1].requests, passes="two")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A line measured on the tiny model, then again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATPATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        from models.bench.builders import folder

        onnx.save_model(token_model(), folder() / "tiny.onnx")
        said: list[str] = []
        line = measure(SMALL, SMALL.shapes[0], quick=True, fresh=False, say=said.append)
        assert "loading" in said
        again = measure(SMALL, SMALL.shapes[0], quick=True, fresh=False, say=lambda text: pytest.fail("measured again"))
        assert again == json.loads(json.dumps(line))
        yield line, Hotfix.load(hotfix(folder() / "tiny.onnx"))


@pytest.mark.slow
def test_a_trained_detector_stands_at_every_site(line):
    _, fitted = line
    assert [site.plan.detector.kind for site in fitted.sites] == ["profile", "profile"]
    assert fitted.groups == (tuple(site.id for site in fitted.sites),)


@pytest.mark.slow
def test_a_line_has_every_request_on_one_thread_and_two(line):
    told, _ = line
    assert (told["sites"], told["detector"], told["passes"]) == (2, "profile", "two")
    for threads in ("1", "2"):
        shares = {name: one["flagged"] for name, one in told["threads"][threads].items()}
        assert shares == {"nothing flagged": 0, "one of eight flagged": 0.125, "flagged": 1}
    assert told["patched"]["file_bytes"] > told["original"]["file_bytes"]


@pytest.mark.slow
def test_a_figure_over_its_bound_is_named_and_marked(line):
    told, _ = line
    shown = {**json.loads(json.dumps(told)), "row": ROWS[-1].name, "others": 0.0}
    for requests in shown["threads"].values():
        for one in requests.values():
            one["ratio"] = {"median": 1.0, "low": 0.99, "high": 1.01}
    shown["patched"] = shown["original"]
    results = {"lines": [shown], "versions": {"onnx": "1"}, "processor": "p", "cores": 2, "seconds": 60}
    assert misses([shown]) == []
    page = render(results, None)
    assert "**9 of 9 figures are within their bounds.**" in page
    assert "†" not in page
    shown["threads"]["2"]["nothing flagged"]["ratio"]["median"] = 1.234
    shown["others"] = 0.5
    assert misses([shown]) == [f"{ROWS[-1].name}, 8 × 16, 2 threads, nothing flagged: 1.234, bound 1.03"]
    page = render(results, None)
    assert "**8 of 9 figures" in page
    assert "**1.234**" in page
    assert page.count("†") > 1
    # a second run loads its weights once more; the worst figure comes first
    shown["patched"] = {**shown["original"], "load_ms": 1.2 * shown["original"]["load_ms"]}
    assert len(misses([shown])) == 1
    shown["patched"]["load_ms"] = 1.6 * shown["original"]["load_ms"]
    assert [text.rsplit(" ", 3)[1] for text in misses([shown])] == ["1.600,", "1.234,"]


# The paper's form


def test_the_papers_form_leaves_a_request_that_nothing_flags_and_keeps_row_sums():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from models.bench.paper import PaperForm

    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=99,
        max_position_embeddings=32,
    )
    feeds = {"input_ids": np.random.default_rng(0).integers(0, 99, (2, 9)), "attention_mask": np.ones((2, 9), np.int64)}
    model = transformers.BertModel(config).eval()
    with torch.inference_mode():
        plain = model(**{name: torch.from_numpy(array) for name, array in feeds.items()}).last_hidden_state
    form = PaperForm(model, feeds)
    torch.testing.assert_close(form.original().last_hidden_state, plain, atol=1e-5, rtol=1e-4)
    assert torch.equal(form.request(False)().last_hidden_state, form.original().last_hidden_state)
    assert not torch.allclose(form.request(True)().last_hidden_state, plain)
    map_ = torch.softmax(torch.randn(2, 4, 9, 9), -1)
    column = torch.tensor([3, 5])
    changed = form._redistribute(map_, column)
    torch.testing.assert_close(changed.sum(-1), torch.ones(2, 4, 9))
    torch.testing.assert_close(changed[0, ..., 3], torch.full((4, 9), 1 / 9))
    others = [0, 1, 2, 4, 5, 6, 7, 8]
    scale = (changed / map_)[0][..., others]
    torch.testing.assert_close(scale, scale[..., :1].expand_as(scale))
