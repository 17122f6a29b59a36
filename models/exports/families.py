"""Tiny seeded models of the families that people export, the smallest that keep every structure of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["HOLES", "ROWS", "Row"]

VOCABULARY = 99


@dataclass(frozen=True)
class Row:
    """One row of the table: a model and a task.

    Attributes:
        name: family, and the part of it where there are several.
        model: transformers class.
        config: its configuration.
        sites: attention maps that the graph computes.
        task: None where the exporter is to tell it from the architecture.
        kv_cache: as in `export_model`.
    """

    name: str
    model: str
    config: Mapping[str, Any]
    sites: int
    task: str | None = None
    kv_cache: bool = False


_WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_TOKENS = {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
_ENCODER = {**_WIDTHS, **_TOKENS}
_DECODER = {**_ENCODER, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GROUPED = {**_DECODER, "num_key_value_heads": 2}
_IMAGE = {**_WIDTHS, "image_size": 16, "patch_size": 4}
_T5 = {"vocab_size": VOCABULARY, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 64}
_SPECIAL = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
_TWO_TOWERS = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    **_SPECIAL,
}
_BART = {**_TWO_TOWERS, "max_position_embeddings": 64}
# 20 spectrogram frames make 10 encoder positions.
_WHISPER = {**_TWO_TOWERS, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 20}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

ROWS: tuple[Row, ...] = (
    Row("bert", "BertForSequenceClassification", _ENCODER, 2),
    Row("roberta", "RobertaForSequenceClassification", _ENCODER, 2),
    Row("xlm-roberta", "XLMRobertaForTokenClassification", _ENCODER, 2),
    Row("camembert", "CamembertForTokenClassification", _ENCODER, 2),
    Row(
        "distilbert",
        "DistilBertForSequenceClassification",
        {
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 64,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
        },
        2,
    ),
    Row("electra", "ElectraForSequenceClassification", {**_ENCODER, "embedding_size": 16}, 2),
    # One layer's weights, used twice.
    Row("albert", "AlbertForSequenceClassification", {**_ENCODER, "embedding_size": 16}, 2),
    Row("mpnet", "MPNetModel", _ENCODER, 2),
    Row(
        "deberta-v2",
        "DebertaV2ForSequenceClassification",
        {
            **_ENCODER,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
        },
        2,
    ),
    Row("vit", "ViTForImageClassification", _IMAGE, 2),
    Row("deit", "DeiTForImageClassification", _IMAGE, 2),
    Row("beit", "BeitForImageClassification", {**_IMAGE, "use_relative_position_bias": True}, 2),
    # Windows of 4 on 16 × 16 and 8 × 8 patches; every second block is shifted.
    Row(
        "swin",
        "SwinForImageClassification",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        4,
    ),
    Row(
        "clip",
        "CLIPModel",
        {
            "text_config": {**_ENCODER, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
            "vision_config": _IMAGE,
            "projection_dim": 16,
        },
        4,
    ),
    Row("gpt2", "GPT2LMHeadModel", _GPT2, 2),
    Row("gpt2 with cache", "GPT2LMHeadModel", _GPT2, 2, kv_cache=True),
    Row("gpt-neox", "GPTNeoXForCausalLM", _DECODER, 2),
    Row("llama", "LlamaForCausalLM", _GROUPED, 2),
    Row("llama with cache", "LlamaForCausalLM", _GROUPED, 2, kv_cache=True),
    # A window shorter than the texts.
    Row("mistral", "MistralForCausalLM", {**_GROUPED, "sliding_window": 6}, 2),
    Row("qwen2", "Qwen2ForCausalLM", _GROUPED, 2),
    Row("gemma2", "Gemma2ForCausalLM", {**_GROUPED, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}, 2),
    Row("bloom", "BloomForCausalLM", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}, 2),
    Row("opt", "OPTForCausalLM", {**_DECODER, "ffn_dim": 64, "word_embed_proj_dim": 32}, 2),
    Row("t5 encoder", "T5ForConditionalGeneration", _T5, 2, "seq2seq-encoder"),
    Row("t5 decoder", "T5ForConditionalGeneration", _T5, 4, "seq2seq-decoder"),
    Row("bart encoder", "BartForConditionalGeneration", _BART, 2, "seq2seq-encoder"),
    Row("bart decoder", "BartForConditionalGeneration", _BART, 4, "seq2seq-decoder"),
    Row("whisper encoder", "WhisperForConditionalGeneration", _WHISPER, 2, "seq2seq-encoder"),
    Row("whisper decoder", "WhisperForConditionalGeneration", _WHISPER, 4, "seq2seq-decoder"),
)

_NO_SDPA = (
    "transformers itself has no SDPA implementation of this family, so there is nothing to export; eager, its only"
    " implementation, passes"
)

HOLES: Mapping[str, Mapping[str, str]] = {
    name: {"sdpa": _NO_SDPA} for name in ("mpnet", "deberta-v2", "gemma2", "bloom")
}
"""Row → attention implementation → why there is no export.

The build fails on a hole that is not here, and on one here that has closed.
"""
