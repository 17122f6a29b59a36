"""`make gpu` as far as a CPU can tell: what CUDA would do with patched graphs, and what is measured of tiny models."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, parser

from models.bench import nodes
from models.bench.cuda_form import DYNAMIC, KERNELS, forecast
from models.bench.device_runs import Device, Held, fixed_graph, open_session, outputs_of
from models.bench.gpu import QUICK_EFFORT, main, measure
from models.bench.gpu_checks import misses
from models.bench.gpu_models import SMOLLM2_360M, TINY, TINY_DECODER, built, fitted, patched, request
from models.bench.group_query import save
from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites

CPU = Device(cuda=False)
DECODER = TINY[-1]
PROMPT, STEP = DECODER.shapes.values()


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny decoder in a cache of its own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("ATPATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield built(DECODER)


# The forecast


def told(text: str, **types: str) -> Any:
    """The forecast for a graph in onnx's own notation."""
    return forecast(parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'), types)


def test_a_shape_that_a_kernel_reads_on_the_host_needs_no_copy() -> None:
    found = told("""g (float[n, 4] x) => (float[m, k] y) <int64[1] minus = {-1}> {
        shape = Shape (x)
        wide = Concat <axis = 0> (shape, minus)
        last = Gather <axis = 0> (wide, minus)
        y = Reshape (x, last)
    }""")
    assert (found.on_cpu, found.copies, found.capturable) == ({"Concat": 1, "Gather": 1}, (), True)


def test_a_size_that_meets_values_is_copied() -> None:
    found = told("""g (float[n, 4] x) => (float[n, 4] y) <int64[2] square = {4, 4}, float none = {0}> {
        a = Relu (x)
        shape = Shape (a)
        same = Equal (shape, square)
        y = Where (same, a, none)
    }""")
    assert found.on_cpu == {"Equal": 1}
    assert found.copies == ("Equal → Where: same",)
    assert not found.capturable


def test_an_operator_without_a_kernel_goes_to_the_cpu_and_back() -> None:
    text = """g (bool[n] c, float[n] x) => (float[n] y) {
        a = Greater (x, x)
        b = Where (c, a, a)
        y = Cast <to = 1> (b)
    }"""
    found = told(text, a="bool")
    assert found.without_kernel == ("Where of bool",)
    assert (found.on_cpu, found.copies) == ({"Where": 1, "Cast": 1}, ("Greater → Where: a",))
    assert told(text, a="float").capturable
    assert told("g (float[n] x) => (float[n] y) { y = Celu (x) }").without_kernel == ("Celu",)


@pytest.mark.parametrize("op", sorted(DYNAMIC & {"NonZero"}))
def test_an_output_whose_size_depends_on_values_cannot_be_captured(op: str) -> None:
    found = told(f"g (float[n] x) => (int64[1, m] y) {{ y = {op} (x) }}")
    assert (found.dynamic, found.capturable) == ({op: 1}, False)


def test_control_flow_is_found_in_bodies_too() -> None:
    value = helper.make_tensor_value_info
    inner = helper.make_graph([], "inner", [], [value("x", TensorProto.FLOAT, [1])])
    outer = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)],
        "outer",
        [],
        [value("y", TensorProto.FLOAT, [1])],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["z"], then_branch=outer, else_branch=outer)],
        "g",
        [value("c", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, [1])],
        [value("z", TensorProto.FLOAT, [1])],
    )
    assert forecast(helper.make_model(graph), {}).control_flow == {"If": 3}


def test_operators_of_onnxruntimes_own_list() -> None:
    """docs/OperatorKernels.md: what a patch could trip over."""
    assert "bool" not in KERNELS["Where"] | KERNELS["Max"] | KERNELS["ReduceMax"] | KERNELS["CumSum"]
    assert "int64" not in KERNELS["Pad"] | KERNELS["ReduceMean"] | KERNELS["ArgMax"]
    assert KERNELS["GroupQueryAttention"] == {"float16", "bfloat16"}


# Patched graphs without branches

SIZES = {"batch": 2, "sequence": 9}


@cache
def small(name: str) -> onnx.ModelProto:
    return nodes.made(name, 2)


def feeds_of(name: str) -> dict[str, np.ndarray]:
    if name == "table":
        return {"features": np.zeros((2, nodes.COLUMNS - 1), np.float32)}
    return {key: np.ones((2, 9), np.int64) for key in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("passes", ["one", "two"])
@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in nodes.MODELS for kind in nodes.detectors(name)], ids=str
)
def test_a_patch_without_branches_can_be_captured(name: str, kind: str, passes: str, tmp_path: Path) -> None:
    """And with open sizes it needs no copies but those that the original needs, and their twins in a second pass."""
    model, detector = small(name), nodes.detectors(name)[kind]
    sites, _ = find_sites(model)
    plan = nodes.plan_of(name, detector, sites, gating="none", passes=passes, telemetry=True)
    onnx.save(model, tmp_path / "original.onnx")
    onnx.save(patch(model, plan, sites), tmp_path / "patched.onnx")
    fixed = forecast(*fixed_graph(tmp_path / "patched.onnx", SIZES, feeds_of(name), tmp_path))
    assert fixed.capturable, fixed
    before, after = (
        forecast(*fixed_graph(tmp_path / f"{one}.onnx", {}, feeds_of(name), tmp_path))
        for one in ("original", "patched")
    )
    assert (after.control_flow, after.dynamic, after.without_kernel) == ({}, {}, ())
    assert [line for line in after.copies if line not in before.copies and "atpatch/second/" not in line] == []


@pytest.mark.parametrize("sizes", [PROMPT, STEP], ids=["prompt", "step"])
def test_a_healed_decoder_can_be_captured_without_branches_only(
    decoder: Path, sizes: dict[str, int], tmp_path: Path
) -> None:
    hotfix, feeds = fitted(DECODER, decoder), request(decoder, sizes, 0)
    found = {}
    for gating in ("none", "if"):
        patched(decoder, hotfix, tmp_path / "m.onnx", gating)
        found[gating] = forecast(*fixed_graph(tmp_path / "m.onnx", sizes, feeds, tmp_path))
    assert found["none"].capturable, found["none"]
    assert found["if"].control_flow == {"If": 1}
    assert not found["if"].capturable


def test_with_open_sizes_a_healed_decoder_copies_single_numbers(decoder: Path, tmp_path: Path) -> None:
    """The number of rows, and whether a prompt begins: made on the CPU, read next to lengths on the device."""
    patched(decoder, fitted(DECODER, decoder), tmp_path / "m.onnx", "none")
    found = forecast(*fixed_graph(tmp_path / "m.onnx", {}, request(decoder, PROMPT, 0), tmp_path))
    assert (found.control_flow, found.dynamic, found.without_kernel) == ({}, {}, ())
    assert {line.split(":")[0] for line in found.copies} == {"Equal → Where", "Slice → Sub", "Sub → Where"}
    assert forecast(*fixed_graph(decoder, {}, request(decoder, PROMPT, 0), tmp_path)).copies == ()


# The decoder


def test_the_decoder_is_causal_and_goes_on_from_its_cache(tmp_path: Path) -> None:
    save(TINY_DECODER, tmp_path / "m.onnx")
    sites, rejected = find_sites(onnx.load(tmp_path / "m.onnx"))
    assert ([site.heads for site in sites], rejected) == ([4, 4], ())
    live = ort.InferenceSession(str(tmp_path / "m.onnx"))
    whole = request(tmp_path / "m.onnx", PROMPT, 0)
    answer = outputs_of(live, whole)
    later = copy.deepcopy(whole)
    later["input_ids"][:, 5] = (later["input_ids"][:, 5] + 1) % TINY_DECODER.words
    changed = outputs_of(live, later)["logits"]
    assert np.array_equal(changed[:, :5], answer["logits"][:, :5])
    assert not np.allclose(changed[:, 5:], answer["logits"][:, 5:], atol=0.1)
    kept = {name: array[:, :, :-1] for name, array in answer.items() if name.startswith("present.")}
    step = {name.replace("present", "past_key_values"): array for name, array in kept.items()}
    step |= {"input_ids": whole["input_ids"][:, -1:], "attention_mask": whole["attention_mask"]}
    np.testing.assert_allclose(
        outputs_of(live, step)["logits"][:, 0].astype(float), answer["logits"][:, -1].astype(float), atol=0.02
    )


def test_the_full_decoder_has_the_parameters_of_its_name() -> None:
    one = SMOLLM2_360M
    keys = one.key_heads * one.head
    layer = 2 * one.width * (one.width + keys) + 3 * one.width * one.inner + 2 * one.width
    assert one.layers * layer + one.words * one.width + one.width == pytest.approx(362e6, rel=0.001)


# What is measured


def test_a_held_request_is_answered_anew_when_its_memory_changes(decoder: Path) -> None:
    first, second = (request(decoder, PROMPT, seed) for seed in (0, 1))
    live = open_session(decoder, CPU, sizes=PROMPT)
    held = Held(live, CPU, first, outputs_of(live, first))
    for feeds in (first, second, first):
        wanted = outputs_of(live, feeds)
        assert all(np.array_equal(held.ask(feeds)[name], array) for name, array in wanted.items())
    assert not np.array_equal(held.ask(second)["logits"], held.ask(first)["logits"])


@pytest.fixture(scope="module")
def figures(decoder: Path) -> dict[str, Any]:
    return measure(DECODER, CPU, QUICK_EFFORT, lambda text: None)


def test_all_is_measured_and_as_expected(figures: dict[str, Any]) -> None:
    assert list(misses(figures, captures=False)) == []
    assert (figures["sites"], figures["detector"], figures["mend"]) == (2, "profile", "heal")
    assert figures["nodes"]["original"] < min(figures["nodes"]["branches"], figures["nodes"]["branch-free"])
    equal = figures["equality"]
    assert (equal["silent"]["same_bits"], equal["firing"]["flags_differ"]) == (True, 0)
    assert equal["firing"]["columns"] == 2, "one column, at both sites"
    assert equal["firing"]["margin"] > 0 and equal["firing"]["effect"] > figures["tolerance"]
    assert figures["copies"]["open"]["branches"]["nodes"]["CPUExecutionProvider"] > 0
    assert figures["copies"]["forecast"]["copies"] == 0
    assert list(figures["shapes"]) == list(DECODER.shapes)
    for one in figures["shapes"].values():
        assert set(one["captured"]["differences"]["branch-free"].values()) == {0.0}
        assert list(one["ratios"]) == ["branch-free", "branches", "captured"]
        assert all(kind["ratio"]["low"] > 0 for form in one["ratios"].values() for kind in form.values())


def changed(figures: dict[str, Any], *path: str, to: object) -> dict[str, Any]:
    twin = copy.deepcopy(figures)
    at = twin
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    return twin


@pytest.mark.parametrize(
    ("path", "to", "line"),
    [
        (("equality", "silent", "difference"), 0.5, "a silent request differs from the original: by 0.5"),
        (("equality", "silent", "difference_cpu"), 0.5, "a silent request differs from the CPU"),
        (("equality", "firing", "difference_cpu"), float("nan"), "a firing request differs from the CPU"),
        (("equality", "firing", "flags_differ"), 3, "3 flags differ"),
        (("equality", "firing", "effect"), 0.0, "changes nothing"),
        (("copies", "fixed", "branch-free", "copies"), 4, "4 copies between host and device"),
        (("shapes", "prompt of 8", "captured"), {"captured": True, "differences": {"original": {"": 1.0}}}, "other an"),
    ],
)  # fmt: skip
def test_what_is_missed_is_named(figures: dict[str, Any], path: tuple[str, ...], to: object, line: str) -> None:
    (found,) = misses(changed(figures, *path, to=to), captures=False)
    assert line in found


def test_a_patch_may_differ_by_as_much_as_the_original_does(figures: dict[str, Any]) -> None:
    differing = changed(figures, "equality", "firing", "difference_cpu", to=0.2)
    assert len(list(misses(differing, captures=False))) == 1
    assert list(misses(changed(differing, "equality", "devices", to=0.1), captures=False)) == []


def test_a_refused_capture_is_missed_on_cuda_only(figures: dict[str, Any]) -> None:
    refused = {"captured": False, "refused": "branch-free: control flow"}
    both = changed(changed(figures, "shapes", "prompt of 8", "captured", to=refused), "shapes", "step behind 7",
                   "captured", to={"captured": True})  # fmt: skip
    assert list(misses(both, captures=False)) == []
    assert [line.split(": ")[1] for line in misses(both, captures=True)] == ["no graph was captured"]


# The command


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="there is a CUDA provider")
def test_without_a_cuda_provider_one_line_says_so_and_nothing_is_written(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--output", str(tmp_path / "gpu.json")])
    assert done.exit_code == 2
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "nothing measured" in done.stderr and "CUDAExecutionProvider" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_try_on_the_cpu_measures_every_kind_of_model_and_writes_nothing(decoder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--provider", "cpu", "--output", str(tmp_path / "gpu.json")])
    assert done.exit_code == 0, done.output
    for model in TINY:
        assert f"{model.title}, {list(model.shapes)[-1]}: branch-free silent" in done.stderr
    assert "nothing is written" in done.stderr
    assert not list(tmp_path.iterdir())
