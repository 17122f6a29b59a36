"""Decoders as onnxruntime-genai's model builder writes them: GroupQueryAttention, four-bit weights, operators in the
default domain.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper, numpy_helper

from atpatch_onnx import inspect_model, patch, patch_model, unpatch_model
from rewriters.editing.patcher import patch as patch_graph, unpatch as unpatch_graph
from rewriters.finding.finder import find_sites
from rewriters.plan import OneClass, PatchPlan, SitePlan, Static

from .. import word_tokenizers
from ..documents import ROOT, blocks
from ..kept import kept, recipe
from ..rewriters.editing.healed import healed, source_of
from ..word_tokenizers import numbered, save_folder, word_tokenizer

pytestmark = pytest.mark.slow

og = pytest.importorskip("onnxruntime_genai", reason="the builder is not installed")

FAMILIES = ("llama", "qwen2", "gemma", "mistral")
WITH_OTHER_PROJECTIONS = ("qwen3", "phi3")
WITH_WINDOW_CACHE = ("gemma2",)
ONLY_FP32 = ("gpt_oss",)
"""The builder quantizes it only from the four-bit weights that it was published with."""
LAYERS, HEADS, GROUPS, HEAD_DIM, VOCABULARY = 2, 4, 2, 16, 96
BATCH, PROMPT, STEPS = 2, 7, 12
SIZES = {
    "hidden_size": HEADS * HEAD_DIM,
    "intermediate_size": 80,  # not the size of the vocabulary, by which the builder knows the last layer
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "head_dim": HEAD_DIM,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # a fresh model's maps are flat
}
OWN: dict[str, dict[str, object]] = {
    "mistral": {"sliding_window": 8},
    "phi3": {"original_max_position_embeddings": 128},
    "gemma2": {"sliding_window": 16},
    "gpt_oss": {"sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
}

# The builder's own command line, once for every model, in one process: most of its time is importing torch.
_BUILD = """
import runpy, sys
for folder, out, precision, provider, *extra in (line.split("|") for line in sys.argv[1:]):
    sys.argv = ["builder", "-i", folder, "-o", out, "-p", precision, "-e", provider, "-c", out + "/cache", *extra]
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
"""


@pytest.fixture(scope="module")
def built() -> Path:
    """A folder `<family>-<precision>` for each, made from tiny random weights without a network."""
    return kept(f"{recipe(__file__, word_tokenizers.__file__)}/genai", _build)


def _build(root: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = word_tokenizer(numbered(VOCABULARY, {"<unk>": 0, "<s>": 1, "</s>": 2}))
    jobs = []
    for family in (*FAMILIES, *WITH_OTHER_PROJECTIONS, *WITH_WINDOW_CACHE, *ONLY_FP32):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **OWN.get(family, {})))
        model.save_pretrained(root / family)
        save_folder(tokenizer, root / family)
        precisions = ("fp32",) if family in ONLY_FP32 else ("fp32", "int4")
        jobs += [f"{root / family}|{root / f'{family}-{precision}'}|{precision}|cpu" for precision in precisions]
    for precision in ("fp16", "bf16"):
        out = root / f"llama-{precision}-cuda"
        jobs.append(f"{root / 'llama'}|{out}|{precision}|cuda|--extra_options|enable_cuda_graph=1")
    done = subprocess.run([sys.executable, "-c", _BUILD, *jobs], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def generate(path: Path, then: Path | None = None) -> list[dict[str, np.ndarray]]:
    """Prefill and greedy decode steps, the cache handed on as the caller's arrays.

    Args:
        then: the graph of the decode steps, if it is another one.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    tokens = np.random.default_rng(0).integers(3, VOCABULARY, (BATCH, PROMPT))
    half = any("float16" in value.type for value in session.get_inputs())
    empty = np.zeros((BATCH, GROUPS, 0, HEAD_DIM), np.float16 if half else np.float32)
    cache = {name: empty for name in inputs if name.startswith("past")}
    length, answers = PROMPT, []
    for _ in range(STEPS + 1):
        positions = np.broadcast_to(np.arange(length - tokens.shape[1], length), tokens.shape)
        feeds = {
            "input_ids": tokens,
            "attention_mask": np.ones((BATCH, length), np.int64),
            "position_ids": positions,
            **cache,
        }
        answer = dict(zip(names, session.run(names, {name: feeds[name] for name in inputs}), strict=True))
        answers.append(answer)
        cache = {
            name.replace("present", "past_key_values"): array
            for name, array in answer.items()
            if name.startswith("present")
        }
        tokens, length = answer["logits"][:, -1:].argmax(-1), length + 1
        if then is not None and len(answers) == 1:
            session = ort.InferenceSession(str(then), options, providers=["CPUExecutionProvider"])
    return answers


@pytest.mark.parametrize("precision", ["fp32", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_silent_patch_is_bit_identical_in_a_kv_loop(built: Path, tmp_path: Path, family: str, precision: str) -> None:
    model = built / f"{family}-{precision}" / "model.onnx"
    operators = {(node.domain, node.op_type) for node in onnx.load(model, load_external_data=False).graph.node}
    assert {("", "SimplifiedLayerNormalization"), ("com.microsoft", "GroupQueryAttention")} <= operators
    assert (("com.microsoft", "MatMulNBits") in operators) == (precision == "int4")
    inspection = inspect_model(model)
    assert [site.form for site in inspection.sites] == ["GroupQueryAttention"] * LAYERS
    assert not inspection.rejected
    patch_model(model, tmp_path / "silent.onnx", detector="static", columns=())
    for before, after in zip(generate(model), generate(tmp_path / "silent.onnx"), strict=True):
        assert all(np.array_equal(before[name], after[name]) for name in before)
    unpatch_model(tmp_path / "silent.onnx", tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == model.read_bytes()


def talk(folder: Path, **controls: np.ndarray) -> list[list[int]]:
    """Greedy answers of onnxruntime-genai's own loop to two prompts, prompts included."""
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=PROMPT + STEPS, batch_size=BATCH)
    generator = og.Generator(model, parameters)
    for name, value in controls.items():
        generator.set_model_input(name, value)
    generator.append_tokens(np.random.default_rng(0).integers(3, VOCABULARY, (BATCH, PROMPT)).astype(np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [[int(token) for token in generator.get_sequence(row)] for row in range(BATCH)]


FIRING = {"detector": "static", "columns": (3,), "benign": "zero"}
OFF = {"atpatch_enabled": np.array(False), "atpatch_threshold": np.array(0.5, np.float32)}
ON = {**OFF, "atpatch_enabled": np.array(True)}


@pytest.mark.parametrize("shared", [True, False], ids=["shared buffer", "growing cache"])
@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_genai_loads_the_new_folder_and_says_the_same(
    built: Path, tmp_path: Path, precision: str, shared: bool
) -> None:
    source = shutil.copytree(built / f"llama-{precision}", tmp_path / "source")
    config = json.loads((source / "genai_config.json").read_text())
    config["search"]["past_present_share_buffer"] = shared
    (source / "genai_config.json").write_text(json.dumps(config))
    patch(source, tmp_path / "silent", detector="static", columns=())
    assert talk(tmp_path / "silent") == talk(source)


def test_two_folders_are_a_switch(built: Path, tmp_path: Path) -> None:
    """By default the patch of a genai folder is always on; the folder that it came from is the other position."""
    patch(built / "llama-fp32", tmp_path / "patched", **FIRING)
    original = talk(built / "llama-fp32")
    assert talk(tmp_path / "patched") != original and talk(built / "llama-fp32") == original
    # what the default keeps from happening: genai takes the input without a word, and the patch stays on
    patch(built / "llama-fp32", tmp_path / "optional", **FIRING, controls="optional")
    assert talk(tmp_path / "optional", **OFF) == talk(tmp_path / "patched") == talk(tmp_path / "optional")


def test_required_controls_switch_the_patch_in_genai(built: Path, tmp_path: Path) -> None:
    patch(built / "llama-fp32", tmp_path / "always", **FIRING)
    patch(built / "llama-fp32", tmp_path / "required", **FIRING, controls="required")
    assert talk(tmp_path / "required", **OFF) == talk(built / "llama-fp32")
    assert talk(tmp_path / "required", **ON) == talk(tmp_path / "always") != talk(built / "llama-fp32")
    with pytest.raises(Exception, match="atpatch_enabled"):
        talk(tmp_path / "required")


@pytest.mark.parametrize("mend", [None, "heal"])
def test_genai_takes_a_marked_span_and_reports_in_every_step(built: Path, tmp_path: Path, mend: str | None) -> None:
    silent = {"detector": "static", "columns": (), "mend": mend}
    patch(built / "llama-fp32", tmp_path / "watched", **silent, span="required")
    model = og.Model(str(tmp_path / "watched"))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=PROMPT + STEPS, batch_size=BATCH)
    generator = og.Generator(model, parameters)
    spans = np.array([[0, PROMPT], [2, 4]])  # genai does not copy it, so it has to outlive the loop
    generator.set_model_input("atpatch_span", spans)
    generator.append_tokens(np.random.default_rng(0).integers(3, VOCABULARY, (BATCH, PROMPT)).astype(np.int32))
    shares = []
    while not generator.is_done():
        generator.generate_next_token()
        shares.append(np.array(generator.get_output("atpatch_span_attention")))
    assert shares[0].shape == (BATCH, LAYERS * HEADS)
    np.testing.assert_allclose(shares[0][0], 1, atol=1e-5)  # the whole prompt is marked
    assert ((shares[0][1] > 0) & (shares[0][1] < 1)).all()
    assert (shares[-1][0] < 1).all()  # by now there are tokens behind it
    said = [[int(token) for token in generator.get_sequence(row)] for row in range(BATCH)]
    assert said == talk(built / "llama-fp32")


def node_modules() -> Path | None:
    """A folder that has onnxruntime-node, if there is one: `npm install onnxruntime-node` in ATPATCH_NODE."""
    folder = Path(os.environ.get("ATPATCH_NODE", "."))
    return folder if shutil.which("node") and (folder / "node_modules/onnxruntime-node").is_dir() else None


@pytest.mark.skipif(node_modules() is None, reason="ATPATCH_NODE names no folder with onnxruntime-node")
def test_the_program_for_node_on_the_page_generates(built: Path, tmp_path: Path) -> None:
    (program,) = (block for block in blocks(ROOT / "docs/guide/folders.md") if block.language == "javascript")
    modules = node_modules()
    assert modules is not None
    (tmp_path / "node_modules").symlink_to(modules.resolve() / "node_modules")
    (tmp_path / "generate.mjs").write_text(program.text)

    def answer(folder: Path, *control: str) -> str:
        command = ["node", "generate.mjs", str(folder / "model.onnx"), str(GROUPS), str(HEAD_DIM), *control]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stdout

    source = built / "llama-fp32"
    patch(source, tmp_path / "silent", detector="static", columns=())
    patch(source, tmp_path / "firing", **FIRING)
    patch(source, tmp_path / "required", **FIRING, controls="required")
    original = answer(source)
    assert len(json.loads(original)) == 8 and answer(tmp_path / "silent") == original != answer(tmp_path / "firing")
    assert answer(tmp_path / "required", "on") == answer(tmp_path / "firing")
    assert answer(tmp_path / "required", "off") == original


def test_a_firing_patch_changes_what_it_says(built: Path, tmp_path: Path) -> None:
    model = built / "llama-fp32" / "model.onnx"
    patch_model(model, tmp_path / "firing.onnx", detector="static", columns=(3,), benign="zero")
    before, after = generate(model), generate(tmp_path / "firing.onnx")
    assert not np.allclose(before[0]["logits"], after[0]["logits"], atol=1e-3)
    assert np.isfinite(after[-1]["logits"]).all()


def heal(model: Path, columns: tuple[int, ...], out: Path) -> Path:
    """A copy of a builder's folder with a healing patch; the path of its model."""
    original = onnx.load(model, load_external_data=False)
    sites = find_sites(original)[0]
    group = tuple(site.id for site in sites)
    plans = {site.id: SitePlan(Static(columns)) for site in sites}
    patched = patch_graph(original, PatchPlan(plans, passes="two", groups=(group,), mend="heal"), sites)
    assert unpatch_graph(patched) == original
    shutil.copytree(model.parent, out)
    onnx.save(patched, out / "model.onnx")
    return out / "model.onnx"


def genai_logits(folder: Path, shared: bool, steps: int = 40) -> list[np.ndarray]:
    """Prefill and greedy decode steps in genai's own loop."""
    model = og.Model(str(folder))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=64, batch_size=BATCH, past_present_share_buffer=shared, min_length=60)
    generator = og.Generator(model, params)
    generator.append_tokens(np.random.default_rng(0).integers(3, VOCABULARY, (BATCH, PROMPT)).astype(np.int32))
    answers = []
    for _ in range(steps + 1):
        answers.append(np.array(generator.get_logits()))
        generator.generate_next_token()
    return answers


HEALED = [
    *((family, shared) for family in (*FAMILIES, *WITH_OTHER_PROJECTIONS) for shared in (True, False)),
    *((family, True) for family in WITH_WINDOW_CACHE),
]
HEALED.remove(("mistral", True))  # genai cannot run the original so


@pytest.mark.parametrize("precision", ["fp32", "int4"])
@pytest.mark.parametrize(("family", "shared"), HEALED)
def test_silent_healing_is_bit_identical_in_genai(
    built: Path, tmp_path: Path, family: str, shared: bool, precision: str
) -> None:
    model = built / f"{family}-{precision}" / "model.onnx"
    silent, firing = (heal(model, columns, tmp_path / name) for name, columns in (("silent", ()), ("firing", (3,))))
    before, after, other = (genai_logits(path.parent, shared) for path in (model, silent, firing))
    assert all(np.array_equal(one, two) for one, two in zip(before, after, strict=True))
    assert not np.allclose(before[0], other[0], atol=1e-3) and np.isfinite(other[-1]).all()


def test_sinks_and_experts_are_patched_in_genai(built: Path, tmp_path: Path) -> None:
    """gpt-oss: each head has a sink, and every other layer's cache holds only its window, so it is no site."""
    model = built / "gpt_oss-fp32" / "model.onnx"
    operators = {node.op_type for node in onnx.load(model, load_external_data=False).graph.node}
    assert {"GroupQueryAttention", "MoE"} <= operators
    assert [site.id for site in inspect_model(model).sites] == ["model.layers.1.attn"]
    patch(model.parent, tmp_path / "silent", detector="static", columns=())
    before = genai_logits(model.parent, True)
    healed_folders = [heal(model, columns, tmp_path / f"healed {len(columns)}").parent for columns in ((), (3,))]
    same, quiet, other = (genai_logits(folder, True) for folder in (tmp_path / "silent", *healed_folders))
    assert all(np.array_equal(*pair) for one in (same, quiet) for pair in zip(before, one, strict=True))
    assert not np.allclose(before[0], other[0], atol=1e-3) and np.isfinite(other[-1]).all()


def test_a_build_in_half_precision_for_cuda(built: Path, tmp_path: Path) -> None:
    """The processor runs it too. Healed, it agrees with its float32 twin as far as float16 goes."""
    model = built / "llama-fp16-cuda" / "model.onnx"
    patch_model(model, tmp_path / "silent.onnx", detector="static", columns=())
    quiet = heal(model, (), tmp_path / "quiet")
    for before, *others in zip(generate(model), generate(tmp_path / "silent.onnx"), generate(quiet), strict=True):
        assert all(other[name].tobytes() == before[name].tobytes() for other in others for name in before)
    first, *_ = generate(heal(model, (3,), tmp_path / "half"))
    want, *_ = generate(heal(built / "llama-fp32" / "model.onnx", (3,), tmp_path / "exact"))
    for name, array in want.items():
        assert first[name].dtype == np.float16
        np.testing.assert_allclose(first[name], array, atol=0.01 * np.abs(array).max(), rtol=0, err_msg=name)


@pytest.mark.parametrize(("gating", "notes"), [("if", 1), ("none", 0)])
def test_a_build_for_cuda_graphs_is_told_of_branches(built: Path, tmp_path: Path, gating: str, notes: int) -> None:
    done = patch(built / "llama-fp16-cuda", tmp_path / "out", detector="static", columns=(3,), gating=gating)
    assert sum("enable_cuda_graph" in note for note in done.notes) == notes


def test_types_of_a_build_in_bfloat16(built: Path, tmp_path: Path) -> None:
    """No kernel of the processor takes it, but types are checked before kernels are looked for."""
    model = built / "llama-bf16-cuda" / "model.onnx"
    patched = [heal(model, (3,), tmp_path / "static"), heal_by_answer_row(model, 3.0, tmp_path / "answer row")]
    for path in (model, *patched):
        with pytest.raises(Exception, match="Could not find an implementation for MatMul"):
            ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def heal_by_answer_row(model: Path, threshold: float, out: Path) -> Path:
    """As `heal`, with detectors that read the answer row; one of them is shallow, and the other one deep."""
    original = onnx.load(model, load_external_data=False)
    sites = find_sites(original)[0]
    mean, weight = np.zeros(HEADS, np.float32), np.ones((HEADS, 1), np.float32)
    detector = OneClass(mean, weight, squared=False, offset=0.0, probes=(), answer_row=True)
    group = tuple(site.id for site in sites)
    plans = {name: SitePlan(detector) for name in group}
    plan = PatchPlan(plans, threshold, passes="two", groups=(group,), joint="sum", mend="heal")
    shutil.copytree(model.parent, out)
    onnx.save(patch_graph(original, plan, sites), out / "model.onnx")
    return out / "model.onnx"


@pytest.mark.parametrize("shared", [True, False], ids=["shared buffer", "growing cache"])
@pytest.mark.parametrize(("family", "precision"), [("llama", "fp32"), ("llama", "int4"), ("gemma2", "fp32")])
def test_silent_detectors_of_the_answer_row_change_no_bit_in_genai(
    built: Path, tmp_path: Path, family: str, precision: str, shared: bool
) -> None:
    if (family, shared) == ("gemma2", False):
        pytest.skip("genai cannot run the original so")
    model = built / f"{family}-{precision}" / "model.onnx"
    silent, firing = (heal_by_answer_row(model, bar, tmp_path / str(bar)) for bar in (1e6, 3.0))
    before, after, other = (genai_logits(path.parent, shared, 8) for path in (model, silent, firing))
    assert all(np.array_equal(one, two) for one, two in zip(before, after, strict=True))
    assert not np.allclose(before[0], other[0], atol=1e-3)


def with_rows_of(model: onnx.ModelProto, source: list[int]) -> onnx.ModelProto:
    """A graph for prompts only, in which each token has the keys and values of its source, wherever a projection is
    split into queries, keys and values.
    """
    healed_ = onnx.ModelProto()
    healed_.CopyFrom(model)
    healed_.graph.initializer.append(numpy_helper.from_array(np.array(source), "source"))
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.name.endswith("qkv_proj/Split"):
            twin = onnx.NodeProto()
            twin.CopyFrom(node)
            nodes[-1] = twin
            for place in (1, 2):
                twin.output[place] += "/before"
                nodes.append(helper.make_node("Gather", [twin.output[place], "source"], [node.output[place]], axis=1))
    assert len(nodes) == len(model.graph.node) + 2 * LAYERS
    del healed_.graph.node[:]
    healed_.graph.node.extend(nodes)
    return healed_


def test_four_bit_weights_are_healed_as_in_a_graph_with_healed_rows(built: Path, tmp_path: Path) -> None:
    """The prompt runs in that graph; steps of generation in the original, on its cache."""
    model = built / "qwen3-int4" / "model.onnx"
    got = generate(heal(model, (3, 4), tmp_path / "healed"))
    graph = onnx.load(model, load_external_data=False)
    assert any(node.op_type == "MatMulNBits" and "qkv_proj" in node.name for node in graph.graph.node)
    oracle = shutil.copytree(model.parent, tmp_path / "oracle") / "prompt.onnx"
    onnx.save(with_rows_of(graph, [0, 1, 2, 2, 0, 5, 6]), oracle)
    want = generate(oracle, then=model)
    assert np.abs(got[0]["logits"] - generate(model)[0]["logits"]).max() > 1e-2
    for one, other in zip(got, want, strict=True):
        for name, array in other.items():
            np.testing.assert_allclose(one[name], array, atol=1e-4 * np.abs(array).max(), rtol=0, err_msg=name)


@pytest.mark.parametrize("columns", [(3,), (3, 4)], ids=str)
@pytest.mark.parametrize("family", [*FAMILIES, *WITH_OTHER_PROJECTIONS])
def test_healing_agrees_with_torch(built: Path, tmp_path: Path, family: str, columns: tuple[int, ...]) -> None:
    from transformers import AutoModelForCausalLM, DynamicCache

    answers = generate(heal(built / f"{family}-fp32" / "model.onnx", columns, tmp_path / "healed"))
    whole = {"sliding_window": None} if family == "mistral" else {}  # the builder's graph has no window
    model = AutoModelForCausalLM.from_pretrained(built / family, attn_implementation="eager", **whole).eval()
    tokens = torch.from_numpy(np.random.default_rng(0).integers(3, VOCABULARY, (BATCH, PROMPT)))
    cache = DynamicCache()
    for answer in answers:
        flags = np.zeros(tokens.shape, bool)
        if tokens.shape[1] == PROMPT:
            flags[:, columns] = True
        with torch.no_grad(), healed(model, source_of(flags, np.ones_like(flags)), HEADS * HEAD_DIM):
            want = model(input_ids=tokens, past_key_values=cache, use_cache=True).logits.numpy()
        np.testing.assert_allclose(answer["logits"], want, atol=1e-4 * np.abs(want).max(), rtol=0)
        for layer, part in enumerate(cache.layers):
            for name, value in (("key", part.keys), ("value", part.values)):
                got = answer[f"present.{layer}.{name}"]
                assert np.abs(got - value.numpy()).max() < 1e-4 * np.abs(got).max()
        tokens = torch.from_numpy(answer["logits"][:, -1:].argmax(-1))


@pytest.mark.parametrize(("lengths", "calls"), [((7, 5), (7, 1, 1)), ((7,), (7, 3, 1))], ids=["padded", "two turns"])
def test_samples_are_healed_as_if_alone(
    built: Path, tmp_path: Path, lengths: tuple[int, ...], calls: tuple[int, ...]
) -> None:
    """Prompts are padded on the right: column 4 is the last token of the shorter one, and column 6 is padding. In a
    second turn column 7 is the first new token, with only other new tokens to heal it from.
    """
    from transformers import AutoModelForCausalLM, DynamicCache

    columns = (4, 6, 7)
    live = ort.InferenceSession(
        str(heal(built / "qwen3-fp32" / "model.onnx", columns, tmp_path / "healed")), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in live.get_outputs()]
    ids = np.random.default_rng(1).integers(3, VOCABULARY, (len(lengths), 12))
    cache = {
        name: np.zeros((len(lengths), GROUPS, 0, HEAD_DIM), np.float32)
        for name in (value.name for value in live.get_inputs())
        if name.startswith("past")
    }
    model = AutoModelForCausalLM.from_pretrained(built / "qwen3", attn_implementation="eager").eval()
    caches = [DynamicCache() for _ in lengths]
    done = np.zeros(len(lengths), int)
    total = 0
    for size in calls:
        new = np.minimum(lengths, size) if total == 0 else np.full(len(lengths), size)
        total += size
        tokens = np.array([np.pad(row[d : d + n], (0, size - n)) for row, d, n in zip(ids, done, new, strict=True)])
        mask = (np.arange(total) < (done + new)[:, None]).astype(np.int64)
        answer = dict(zip(names, live.run(names, {"input_ids": tokens, "attention_mask": mask, **cache}), strict=True))
        cache = {name.replace("present", "past_key_values"): answer[name] for name in names if name != "logits"}
        for sample, (start, count) in enumerate(zip(done, new, strict=True)):
            flags = np.isin(np.arange(start, start + count), columns)[None] & (size > 1)
            with torch.no_grad(), healed(model, source_of(flags, np.ones_like(flags), begins=start == 0)):
                own = torch.from_numpy(tokens[sample : sample + 1, :count])
                want = model(input_ids=own, past_key_values=caches[sample], use_cache=True).logits[0].numpy()
            np.testing.assert_allclose(
                answer["logits"][sample, :count],
                want,
                atol=1e-4 * np.abs(want).max(),
                rtol=0,
                err_msg=f"{size} {sample}",
            )
        done = done + new
