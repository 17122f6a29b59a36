"""Graphs of tiny seeded models, as the exporters of PyTorch and onnxruntime-genai write them."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from atpatch_onnx.exporters.quiet import quiet

__all__ = ["export_class", "export_module", "genai_folder", "merge_decoders"]

_BUILD = """
import runpy, sys
folder, out, precision = sys.argv[1].split("|")
sys.argv = ["builder", "-i", folder, "-o", out, "-p", precision, "-e", "cpu", "-c", out + "/cache"]
runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
"""


def export_class(
    path: Path,
    name: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    dynamo: bool,
    dynamic: Mapping[str, Sequence[int]],
) -> None:
    """One class of transformers with random weights.

    Args:
        inputs: name → tensor, as the forward function takes them.
        outputs: fields of its result.
        dynamic: input → axes of free size.
    """
    import torch
    import transformers

    class Wrapped(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            made = self.model(**dict(zip(inputs, values, strict=True)), return_dict=True)
            return tuple(made[output] for output in outputs)

    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model_class = getattr(transformers, name)
        configuration = model_class.config_class(**config)
        configuration._attn_implementation = "eager"
        configuration._experts_implementation = "batched_mm"
        export_module(path, Wrapped(model_class(configuration)), inputs, outputs, dynamo, dynamic)


def export_module(
    path: Path,
    model: Any,
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    dynamo: bool,
    dynamic: Mapping[str, Sequence[int]],
) -> None:
    """A module of torch, as its tracing exporter writes it, or with `dynamo` the newer one. See `export_class`."""
    import torch

    with quiet(), torch.no_grad():
        common: dict[str, Any] = {"input_names": list(inputs), "output_names": list(outputs)}
        values, model = tuple(inputs.values()), model.eval()
        if dynamo:
            shapes = tuple(dict.fromkeys(dynamic.get(key, ()), torch.export.Dim.AUTO) for key in inputs)
            # a function that takes any number of values has them in one tuple
            parameters = inspect.signature(model.forward).parameters.values()
            whole = (shapes,) if any(one.kind is one.VAR_POSITIONAL for one in parameters) else shapes
            torch.onnx.export(
                model, values, str(path), dynamo=True, external_data=False, dynamic_shapes=whole, **common
            )
        else:
            axes = {key: {axis: f"{key}_{axis}" for axis in dynamic.get(key, ())} for key in inputs}
            torch.onnx.export(model, values, str(path), dynamo=False, opset_version=17, dynamic_axes=axes, **common)


def merge_decoders(without: Path, past: Path, path: Path) -> None:
    """One graph with an If, as Optimum merges a decoder with caches and one without.

    Args:
        without: takes ids and mask, gives logits and caches.
        past: takes caches as well.
    """
    branches = {"then_branch": onnx.load(past), "else_branch": onnx.load(without)}
    weights: dict[str, onnx.TensorProto] = {}
    graphs = {}
    for key, model in branches.items():
        for tensor in model.graph.initializer:
            if tensor.name in weights and weights[tensor.name] != tensor:
                tensor.name = f"{key}_{tensor.name}"
            weights.setdefault(tensor.name, tensor)
        graphs[key] = helper.make_graph(list(model.graph.node), key, [], list(model.graph.output))
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    inputs = branches["then_branch"].graph.input
    outputs = branches["then_branch"].graph.output
    node = helper.make_node("If", ["use_cache_branch"], [value.name for value in outputs], name="optimum::if", **graphs)
    graph = helper.make_graph([node], "merged", [*inputs, flag], list(outputs), list(weights.values()))
    opsets = list(branches["then_branch"].opset_import)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=branches["then_branch"].ir_version), path)


def genai_folder(path: Path, family: str, precision: str) -> None:
    """A decoder by onnxruntime-genai's model builder; `path` gets the graph, next to it the weights."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 96,
        "max_position_embeddings": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 96)}
    with tempfile.TemporaryDirectory() as scratch, quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes)).save_pretrained(scratch)
        PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
            unk_token="<unk>",
            bos_token="<s>",
            eos_token="</s>",
        ).save_pretrained(scratch)
        out = Path(scratch) / "out"
        subprocess.run(
            [sys.executable, "-c", _BUILD, f"{scratch}|{out}|{precision}"],
            check=True,
            capture_output=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        path.parent.mkdir(exist_ok=True)
        shutil.copy(out / "model.onnx.data", path.parent / "model.onnx.data")
        shutil.copy(out / "model.onnx", path)
