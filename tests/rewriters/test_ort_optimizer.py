"""Graphs that onnxruntime's transformer optimizer has fused: patched, they do what patching the unfused export does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import AttentionMaskFormat, FusionOptions

from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static
from tests.exports import export_model

from .graphs import session
from .old_exports import HEADS, HIDDEN, OLD

# id → model, operator fused to, form of the padding mask, half precision
VARIANTS = {
    f"{name}-{'heads' if heads else 'attention'}-{'index' if index else 'raw'}-{'fp16' if half else 'fp32'}": (
        name,
        heads,
        index,
        half,
    )
    for name in (*OLD, "hf-bert")
    for heads in ((False, True) if name in ("bert", "vit", "hf-bert") else (False,))
    for index in ((False, True) if name in ("bert", "hf-bert") else (False,))
    for half in (False, True)
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)
PAIR = BenignPair(
    np.array([0.5], np.float32), np.random.default_rng(0).normal(size=(1, 1, HIDDEN // HEADS)).astype(np.float32)
)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """The optimizer logs what it fuses."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    yield
    logging.disable(before)


@cache
def unfused(name: str) -> onnx.ModelProto:
    if name == "hf-bert":
        return onnx.load(export_model("bert", "torchscript", "eager").path)
    with TemporaryDirectory() as folder:
        return onnx.load(OLD[name].export(Path(folder) / "model.onnx"))


def feeds_of(name: str) -> dict[str, np.ndarray]:
    return (
        export_model("bert", "torchscript", "eager").feeds(3, padded=True) if name == "hf-bert" else OLD[name].draw(3)
    )


@cache
def fused(variant: str) -> onnx.ModelProto:
    """The export, optimized as its variant says."""
    name, heads, index, half = VARIANTS[variant]
    model_type = "bert" if name == "hf-bert" else OLD[name].model_type
    options = FusionOptions(model_type)
    options.use_multi_head_attention = heads
    options.attention_mask_format = AttentionMaskFormat.MaskIndexEnd if index else AttentionMaskFormat.AttentionMask
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "fused.onnx"
        onnx.save(unfused(name), source)
        made = optimizer.optimize_model(
            str(source),
            model_type=model_type,
            num_heads=HEADS,
            hidden_size=HIDDEN,
            use_gpu=False,
            opt_level=0,
            optimization_options=options,
        )
        if half:
            made.convert_float_to_float16(keep_io_types=True)
        made.save_model_to_file(str(target))
        return onnx.load(target)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    live = session(model)
    accepted = {value.name for value in live.get_inputs()}
    outputs = [value.name for value in live.get_outputs()]
    return dict(
        zip(outputs, live.run(outputs, {name: array for name, array in feeds.items() if name in accepted}), strict=True)
    )


def patched(model: onnx.ModelProto, site_plan: SitePlan, gating: str = "if") -> onnx.ModelProto:
    sites, _ = find_sites(model)
    return patch(model, PatchPlan({site.id: site_plan for site in sites}, gating=gating), sites)  # type: ignore[arg-type]


@each_variant
def test_the_fused_operator_is_there_and_is_a_site(variant: str) -> None:
    name, heads, index, half = VARIANTS[variant]
    model = fused(variant)
    operator = "MultiHeadAttention" if heads else "Attention"
    assert [node.op_type for node in model.graph.node if node.op_type.endswith("Attention")] == [operator] * 2
    assert not any(node.op_type == "Softmax" for node in model.graph.node)
    sites, rejected = find_sites(model)
    assert not rejected
    assert [site.form for site in sites] == ["MultiHeadAttention" if heads else "com.microsoft.Attention"] * 2
    assert {(site.heads, site.head_dim) for site in sites} == {(HEADS, HIDDEN // HEADS)}
    assert {site.dtype for site in sites} == {onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT}
    assert {site.self_attention for site in sites} == {name != "gpt2-cached"}
    masked = name == "gpt2-cached" or (name in ("bert", "hf-bert") and not index)
    assert {site.key_mask for site in sites} == {"attention_mask" if masked else None}


@pytest.mark.parametrize("gating", ["if", "none"])
@each_variant
def test_silent_patch_is_bit_identical_and_undone_exactly(variant: str, gating: str) -> None:
    model, feeds = fused(variant), feeds_of(VARIANTS[variant][0])
    silent = patched(model, SitePlan(Static()), gating)
    before, after = run(model, feeds), run(silent, feeds)
    for name, array in before.items():
        assert array.tobytes() == after[name].tobytes(), name
    assert unpatch(silent) == model


@each_variant
def test_firing_patch_agrees_with_that_of_the_unfused_export(variant: str) -> None:
    name, _, _, half = VARIANTS[variant]
    plan, feeds = SitePlan(Static((1, 3)), PAIR), feeds_of(name)
    want = run(patched(unfused(name), plan), feeds)
    got = run(patched(fused(variant), plan), feeds)
    before = run(fused(variant), feeds)["last_hidden_state"]
    assert np.abs(before - got["last_hidden_state"]).max() > 0.1
    for output, array in want.items():
        # Half precision holds numbers of 2 to 4 no better than to 1e-3, so its bound goes with the size of the output.
        bound = 2e-3 * max(1.0, float(np.abs(array).max())) if half else 1e-5
        np.testing.assert_allclose(got[output].astype(np.float32), array, atol=bound, rtol=0, err_msg=output)
