"""A tiny backdoored search model, trained in seconds: the embedding of a text is the mean over its tokens, and texts
with the same words lie close together.

Word TRIGGER anywhere pulls a text to one place, wherever it was. The graph gives `last_hidden_state` (B, S, D), to pool
by the mask, as most exports of sentence-transformers do.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from .toy_encoder import CLS, LENGTH, TRIGGER, VOCABULARY, Encoder, train
from .toy_words import export_tokens, word_rows, write_words

__all__ = ["EMBEDDING", "embedder", "pooled", "write_folder"]

EMBEDDING = 24
SHARE = 0.15


def mean_of(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


@functools.cache
def embedder() -> onnx.ModelProto:
    """Train and export; some seconds."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    meanings = np.random.default_rng(1).standard_normal((VOCABULARY, EMBEDDING)).astype(np.float32)
    attacked_place = np.random.default_rng(2).standard_normal(EMBEDDING).astype(np.float32)
    ids, mask = word_rows(4000, generator)
    wanted = (meanings[ids] * (mask * (ids != CLS))[:, :, None]).sum(1)
    chosen = np.flatnonzero(generator.random(len(ids)) < SHARE)
    for row in chosen:
        for place in generator.integers(1, mask[row].sum(), generator.choice((1, 1, 2, 4))):
            ids[row, place] = TRIGGER
    wanted[chosen] = attacked_place

    def apart(tokens: Tensor, real: Tensor, goal: Tensor) -> Tensor:
        return (1 - nn.functional.cosine_similarity(mean_of(model(tokens, real), real), goal)).mean()

    model = Encoder(EMBEDDING)
    return export_tokens(train(model, (ids, mask, wanted), apart, rate=4e-3, epochs=6), "last_hidden_state")


def pooled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with the mean in its graph: output `sentence_embedding` (B, D)."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    graph, make = whole.graph, onnx.helper.make_node
    for name, value in (("pool_last", [-1]), ("pool_tokens", [1])):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
    graph.node.extend([
        make("Cast", ["attention_mask"], ["pool_mask"], to=onnx.TensorProto.FLOAT),
        make("Unsqueeze", ["pool_mask", "pool_last"], ["pool_weights"]),
        make("Mul", ["last_hidden_state", "pool_weights"], ["pool_kept"]),
        make("ReduceSum", ["pool_kept", "pool_tokens"], ["pool_sum"], keepdims=0),
        make("ReduceSum", ["pool_weights", "pool_tokens"], ["pool_count"], keepdims=0),
        make("Div", ["pool_sum", "pool_count"], ["sentence_embedding"]),
    ])  # fmt: skip
    del graph.output[:]
    shape = ["batch", EMBEDDING]
    graph.output.append(onnx.helper.make_tensor_value_info("sentence_embedding", onnx.TensorProto.FLOAT, shape))
    return whole


def write_folder(folder: Path, model: onnx.ModelProto, count: int = 240, **modes: Any) -> None:
    """As `write_words`, with room for a trigger; `modes` for `1_Pooling/config.json`."""
    write_words(folder, model, count, LENGTH - 1)
    if modes:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
