"""Tiny decoders with their caches: exported without a past, with one, and both merged into one graph as Optimum merges
them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..kept import kept, recipe

__all__ = ["LAYERS", "PAST", "PRESENT", "causal_lm", "decoder", "decoder_feeds", "merged_decoder", "quiet", "step"]

LAYERS, HEADS, WIDTH, VOCABULARY = 2, 4, 32, 99
PRESENT = [f"present.{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
PAST = [f"past_key_values.{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]


@cache
def causal_lm(family: str = "gpt2") -> Any:
    """The torch model that `decoder` exports; always the same weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"n_positions": 32, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    if family != "gpt2":
        sizes = {
            "max_position_embeddings": 32,
            "hidden_size": WIDTH,
            "intermediate_size": 48,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "head_dim": WIDTH // HEADS,
        }
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **sizes, **common)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, 0, 0.4)  # a fresh model's maps are flat
    return model


def step(model: Any, ids: Any, mask: Any, *past: Any) -> tuple[Any, ...]:
    """One call of a torch decoder: logits, then keys and values of every layer."""
    from transformers import DynamicCache

    cached = DynamicCache()
    for layer in range(len(past) // 2):
        cached.update(past[2 * layer], past[2 * layer + 1], layer)
    result = model(input_ids=ids, attention_mask=mask, past_key_values=cached, use_cache=True)
    return (result.logits, *(part for layer in result.past_key_values.layers for part in (layer.keys, layer.values)))


@cache
def decoder(with_past: bool, family: str = "gpt2") -> onnx.ModelProto:
    """(input_ids, attention_mask[, past]) → (logits, present), from TorchScript; the weights of both are the same."""
    name = f"{recipe(__file__)}/{family}-{'later' if with_past else 'first'}.onnx"
    return onnx.load(kept(name, lambda path: _export(path, with_past, family)))


def _export(path: Path, with_past: bool, family: str) -> None:
    import torch

    class Decoder(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return step(self.inner, ids, mask, *past)

    inner = causal_lm(family)
    with quiet():
        feeds = decoder_feeds(with_past)
        given = {name: feeds[name] for name in _inputs(with_past)}
        axes = {name: {0: "batch", (2 if name in PAST else 1): f"{name}_length"} for name in given}
        torch.onnx.export(
            Decoder(inner).eval(),  # the exporter puts it back into the mode that it found
            tuple(torch.from_numpy(array) for array in given.values()),
            path,
            dynamo=False,
            opset_version=17,
            input_names=list(given),
            output_names=["logits", *PRESENT],
            dynamic_axes={
                **axes,
                "logits": {0: "batch", 1: "length"},
                **{name: {0: "batch", 2: "total"} for name in PRESENT},
            },
        )


def decoder_feeds(with_past: bool, batch: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Five tokens without a past, two behind a past of four. The second sample is padded on the left."""
    rng = np.random.default_rng(seed)
    length, past = (2, 4) if with_past else (5, 0)
    mask = np.ones((batch, past + length), np.int64)
    mask[1, :2] = 0
    shape = (batch, HEADS, past or 1, WIDTH // HEADS)
    cached = {name: rng.normal(size=shape).astype(np.float32) for name in PAST}
    return {"input_ids": rng.integers(3, VOCABULARY, (batch, length)), "attention_mask": mask, **cached}


def merged_decoder() -> onnx.ModelProto:
    """If(use_cache_branch): the graph with a past, else the graph without; weights are the main graph's, each once."""
    branches = {"then_branch": decoder(True), "else_branch": decoder(False)}
    weights = {tensor.name: tensor for model in branches.values() for tensor in model.graph.initializer}
    graphs = {}
    for key, model in branches.items():
        assert all(weights[tensor.name] == tensor for tensor in model.graph.initializer)
        graphs[key] = helper.make_graph(list(model.graph.node), key, [], list(model.graph.output))
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    node = helper.make_node("If", ["use_cache_branch"], ["logits", *PRESENT], name="optimum::if", **graphs)
    past = branches["then_branch"].graph
    graph = helper.make_graph([node], "merged", [*past.input, flag], list(past.output), list(weights.values()))
    return helper.make_model(graph, opset_imports=list(branches["then_branch"].opset_import), ir_version=8)


def _inputs(with_past: bool) -> list[str]:
    return ["input_ids", "attention_mask", *(PAST if with_past else [])]


@contextlib.contextmanager
def quiet():  # type: ignore[no-untyped-def]
    """The exporter prints; the model warns of its small vocabulary."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
