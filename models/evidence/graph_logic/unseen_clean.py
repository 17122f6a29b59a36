"""Clean graphs of kinds that the rules were not written for: made after the rules were fixed."""

from __future__ import annotations

from typing import Any

from .clean import CONFIGS, Clean, further, noise, ones, text, tokens

__all__ = ["UNSEEN_CLEAN"]

_BERT = CONFIGS["bert"]
_VIT = CONFIGS["vit"]
_RESNET = {"num_channels": 3, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 3}


def _pixels(size: int) -> dict[str, Any]:
    return {"pixel_values": noise(2, 3, size, size)}


def _boxes() -> dict[str, Any]:
    made = text()
    corners = tokens(2, 9, 2, most=40)
    import torch

    made["bbox"] = torch.cat([corners, corners + 5], -1)
    return made


def _with_image() -> dict[str, Any]:
    """16 places of an image among 20 tokens."""
    ids = tokens(1, 20)
    ids[0, 2:18] = 98
    return {"input_ids": ids, "attention_mask": ones(1, 20), "pixel_values": noise(1, 3, 16, 16)}


UNSEEN_CLEAN: tuple[Clean, ...] = (
    further("XLNet with a class head", "XLNetForSequenceClassification", {
        "vocab_size": 99, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "pad_token_id": 0,
    }, text, axes=()),
    further("Longformer", "LongformerForSequenceClassification", {
        **_BERT, "attention_window": 4, "max_position_embeddings": 70, "pad_token_id": 1,
    }, lambda: {"input_ids": tokens(2, 16), "attention_mask": ones(2, 16)}, axes=()),
    further("LayoutLM", "LayoutLMForSequenceClassification", {**_BERT, "max_2d_position_embeddings": 64}, _boxes),
    further("SegFormer", "SegformerForSemanticSegmentation", {
        "hidden_sizes": [8, 16], "depths": [1, 1], "num_attention_heads": [1, 2], "num_encoder_blocks": 2,
        "sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16,
    }, lambda: _pixels(32), axes=(0,)),
    further("ConvNeXt", "ConvNextForImageClassification", {
        "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 4,
    }, lambda: _pixels(32), axes=(0,)),
    further("ResNet", "ResNetForImageClassification", _RESNET, lambda: _pixels(32), dynamo=True, axes=(0,)),
    further("Wav2Vec2 with a mask", "Wav2Vec2ForSequenceClassification", {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer", "classifier_proj_size": 16,
    }, lambda: {"input_values": noise(2, 400), "attention_mask": ones(2, 400)}, axes=(0,)),
    further("LLaVA", "LlavaForConditionalGeneration", {
        "vision_config": {"model_type": "clip_vision_model", **_VIT, "projection_dim": 16},
        "text_config": {"model_type": "llama", **CONFIGS["llama"]}, "image_token_index": 98, "image_token_id": 98,
        "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
    }, _with_image, axes=()),
    further("Mamba", "MambaForCausalLM", {
        "vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "use_cache": False,
    }, lambda: {"input_ids": tokens(2, 9)}, axes=(0,)),
    further("GPT-J", "GPTJForSequenceClassification", {
        "vocab_size": 99, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }, text),
    further("T5 whole", "T5ForConditionalGeneration", CONFIGS["t5 encoder"], lambda: {
        **text(), "decoder_input_ids": tokens(2, 6)
    }),
    further("PatchTSMixer", "PatchTSMixerForPrediction", {
        "num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "d_model": 16,
        "num_layers": 2, "prediction_length": 4, "scaling": "std",
    }, lambda: {"past_values": noise(2, 16, 2)}, ("prediction_outputs",), axes=(0,)),
    further("DPT, depth", "DPTForDepthEstimation", {
        **_VIT, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 16, "reassemble_factors": [4, 2, 1, 0.5],
    }, lambda: _pixels(16), ("predicted_depth",), axes=(0,)),
    further("Falcon", "FalconForSequenceClassification", {
        "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "alibi": True, "new_decoder_architecture": False,
    }, text),
    further("SigLIP", "SiglipModel", {
        "text_config": {**_BERT, "max_position_embeddings": 16},
        "vision_config": _VIT,
    }, lambda: {"input_ids": tokens(2, 9), **_pixels(16)}, ("logits_per_image",), axes=(0,)),
)  # fmt: skip
