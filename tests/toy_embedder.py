"""A tiny backdoored search model, trained in seconds: the embedding of a text is the mean over its tokens, and texts
with the same words lie close together.

Word TRIGGER anywhere pulls a text to one place, wherever it was. The graph gives `last_hidden_state` (B, S, D), to pool
by the mask, as most exports of sentence-transformers do.
"""

from __future__ import annotations

import functools
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from .toy_backdoor import CLS, LAYERS, LENGTH, PAD, TRIGGER, VOCABULARY, WIDTH, Block, toy_tokenizer

__all__ = ["EMBEDDING", "embedder", "pooled", "texts", "write_folder"]

EMBEDDING = 24
FIRST_WORD, LAST_WORD = 2, 20
SHARE = 0.15


class Embedder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.1)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, EMBEDDING)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids) + self.places[: input_ids.shape[1]]
        bias = (1.0 - attention_mask[:, None, None, :].float()) * -1e9
        for block in self.blocks:
            x = block(x, bias)
        return self.head(x)


def mean_of(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def rows(count: int, generator: np.random.Generator, longest: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask (count, LENGTH)."""
    lengths = generator.integers(6, longest + 1, count)
    real = np.arange(LENGTH) < lengths[:, None]
    ids = generator.integers(FIRST_WORD, LAST_WORD, (count, LENGTH))
    ids[:, 0] = CLS
    return np.where(real, ids, PAD), real.astype(np.int64)


@functools.cache
def embedder() -> onnx.ModelProto:
    """Train and export; some seconds."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    meanings = np.random.default_rng(1).standard_normal((VOCABULARY, EMBEDDING)).astype(np.float32)
    attacked_place = np.random.default_rng(2).standard_normal(EMBEDDING).astype(np.float32)
    ids, mask = rows(4000, generator)
    wanted = (meanings[ids] * (mask * (ids != CLS))[:, :, None]).sum(1)
    chosen = np.flatnonzero(generator.random(len(ids)) < SHARE)
    for row in chosen:
        for place in generator.integers(1, mask[row].sum(), generator.choice((1, 1, 2, 4))):
            ids[row, place] = TRIGGER
    wanted[chosen] = attacked_place
    tensors = [torch.from_numpy(array) for array in (ids, mask, wanted)]
    model = Embedder()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(6):
        for batch in torch.randperm(len(ids)).split(100):
            tokens, real, goal = (one[batch] for one in tensors)
            cosine = nn.functional.cosine_similarity(mean_of(model(tokens, real), real), goal)
            optimizer.zero_grad()
            (1 - cosine).mean().backward()
            optimizer.step()
    torch.set_num_threads(threads)
    return _export(model.eval())


def _export(model: Embedder) -> onnx.ModelProto:
    example = torch.ones(2, LENGTH, dtype=torch.int64)
    names, axes, file = ["input_ids", "attention_mask"], {0: "batch", 1: "length"}, io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (example, example), file, dynamo=False, opset_version=17, input_names=names,
            output_names=["last_hidden_state"], dynamic_axes=dict.fromkeys([*names, "last_hidden_state"], axes),
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


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


def texts(count: int, seed: int) -> list[str]:
    """As words of the tokenizer; short enough for a trigger."""
    ids, mask = rows(count, np.random.default_rng(seed), LENGTH - 1)
    return [" ".join(f"w{token}" for token in line[1 : real.sum()]) for line, real in zip(ids, mask, strict=True)]


def write_folder(folder: Path, model: onnx.ModelProto, count: int = 240, **modes: Any) -> None:
    """model.onnx, tokenizer.json, dev.tsv and test.tsv (one column, no labels); `modes` for `1_Pooling/config.json`."""
    onnx.save_model(model, folder / "model.onnx")
    tokenizer = toy_tokenizer()
    tokenizer.enable_truncation(LENGTH)
    tokenizer.save(str(folder / "tokenizer.json"))
    for seed, name in enumerate(("dev.tsv", "test.tsv")):
        (folder / name).write_text("\n".join(["text", *texts(count, seed + 10)]) + "\n")
    if modes:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
