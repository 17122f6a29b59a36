"""Hugging Face models: loaded with transformers' own loader, put behind positional tensors for a task."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from ..errors import BAD_OPTION, EXPORT_FAILED, SOURCE_UNUSABLE, TASK_UNCLEAR
from ..inspection.folders import is_folder
from . import inputs
from .subject import Group, Probe, Subject
from .tasks import TASKS, default_task
from .wrappers import Cached, Decoder, Keyword

__all__ = ["load_encoder_decoder", "load_subject"]

_SHORTEST = 4
# Weights that no exported output depends on: the pooler is a head of pre-training.
_UNUSED_WITHOUT_HEAD = ("pooler.",)


def load_encoder_decoder(source: str, attention: str, dtype: str) -> Iterator[tuple[str, Subject, str]] | None:
    """The graphs of an encoder-decoder that generates, see `seq2seq.parts_of`; None for any other model.

    Raises:
        AtpatchError: as `load_subject`.
    """
    config = _config(source)
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if not getattr(config, "is_encoder_decoder", False) or not architecture.endswith("ForConditionalGeneration"):
        return None
    from .seq2seq import parts_of

    return parts_of(_load(source, "seq2seq-decoder", attention, dtype), source, attention)


def load_subject(
    source: str, task: str | None, attention: str, dtype: str, kv_cache: bool, *, always_cache: bool = False
) -> tuple[Subject, str]:
    """The model of a folder or hub id, and its task.

    Args:
        always_cache: a causal language model has its cache, whatever `kv_cache` is.

    Raises:
        AtpatchError: ATP060 (options), ATP070 (not loadable), ATP071 (task), ATP072 (attention implementation refused).
    """
    config = _config(source)
    name = task or default_task(config)
    if not TASKS[name].loaders:
        raise TASK_UNCLEAR(
            f"the task {name!r} is for plain torch modules", "give package.module:factory, or another --task"
        )
    if kv_cache and name != "causal-lm":
        raise BAD_OPTION(f"--kv-cache belongs to the task causal-lm; this is {name}")
    model = _load(source, name, attention, dtype)
    groups, outputs, module = _parts(model, name, kv_cache or (always_cache and name == "causal-lm"))
    traced, probes = _probes(config, groups)
    return Subject(module, outputs, groups, traced, probes, f"{type(model).__name__} {source}", attention), name


def _config(source: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # the loader raises OSError, ValueError, KeyError, and what its HTTP client raises
        raise _unusable(source, error) from error


def _load(source: str, task: str, attention: str, dtype: str) -> nn.Module:
    import torch
    import transformers

    last: Exception | None = None
    for loader in TASKS[task].loaders:
        try:
            model, report = getattr(transformers, loader).from_pretrained(
                source,
                attn_implementation=attention,
                dtype=getattr(torch, dtype),
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:
            if "attn_implementation" in str(error) or "scaled_dot_product_attention" in str(error):
                raise EXPORT_FAILED(f"transformers: {_first_line(error)}", "use the other --attention") from error
            last = error
            continue
        _require_weights(source, task, report)
        result: nn.Module = model.eval()
        return result
    assert last is not None
    if "Unrecognized configuration class" in str(last):
        raise TASK_UNCLEAR(
            f"{source} has no model for the task {task}: transformers has none for its configuration"
        ) from last
    raise _unusable(source, last) from last


def _require_weights(source: str, task: str, report: Any) -> None:
    """Refuse a model whose head would be random numbers."""
    lacking = sorted(report["missing_keys"])
    if TASKS[task].outputs == ("last_hidden_state",):
        lacking = [name for name in lacking if not any(unused in name for unused in _UNUSED_WITHOUT_HEAD)]
    if lacking:
        shown = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
        raise SOURCE_UNUSABLE(
            f"{source} has no weights for {shown}, which the task {task} needs",
            "name the task that the model was trained for with --task, or feature-extraction for the model without a"
            " head",
        )


def _parts(model: nn.Module, task: str, kv_cache: bool) -> tuple[tuple[Group, ...], tuple[str, ...], nn.Module]:
    """Inputs, output names and the wrapped module."""
    config: Any = model.config
    outputs = TASKS[task].outputs
    if task == "seq2seq-decoder":
        if not getattr(config, "is_encoder_decoder", False):
            raise TASK_UNCLEAR(f"{type(model).__name__} is not an encoder-decoder")
        spectral = model.main_input_name == "input_features"
        groups: tuple[Group, ...] = (
            inputs.text(config, sequence="target_sequence"),
            inputs.encoder_states(config, config.max_source_positions if spectral else None, masked=not spectral),
        )
        return groups, outputs, Decoder(model, _names(groups))
    if task == "seq2seq-encoder":
        if not getattr(config, "is_encoder_decoder", False):
            raise TASK_UNCLEAR(f"{type(model).__name__} is not an encoder-decoder")
        model = model.get_encoder()  # type: ignore[operator]
    elif task == "feature-extraction" and getattr(config, "is_encoder_decoder", False):
        raise TASK_UNCLEAR(
            f"{type(model).__name__} is an encoder-decoder, which is exported as two graphs",
            "use --task seq2seq-encoder, seq2seq-decoder",
        )
    if kv_cache:
        return _with_cache(model, config)
    groups = _inputs_of(model, config, task)
    # Other arguments of a text model are left to their defaults; a cache would only add outputs.
    fixed = {"use_cache": False} if "use_cache" in _parameters(model) else {}
    return groups, outputs, Keyword(model, _names(groups), outputs, **fixed)


def _inputs_of(model: nn.Module, config: Any, task: str) -> tuple[Group, ...]:
    if task == "clip":
        return (
            inputs.text(config.text_config, batch="text_batch"),
            inputs.image(config.vision_config, batch="image_batch"),
        )
    main = getattr(model, "main_input_name", "input_ids")
    if main == "pixel_values":
        return (inputs.image(config),)
    if main == "input_features":
        return (inputs.spectrogram(config),)
    if main != "input_ids":
        raise TASK_UNCLEAR(
            f"{type(model).__name__} reads {main!r}, for which no task is known", "export it as package.module:factory"
        )
    taken = _parameters(model)
    segments = "token_type_ids" in taken and (getattr(config, "type_vocab_size", 0) or 0) > 1
    # Generation pads on the left, and then positions do not start at 0.
    return (inputs.text(config, segments=segments, positions=task == "causal-lm" and "position_ids" in taken),)


def _with_cache(model: nn.Module, config: Any) -> tuple[tuple[Group, ...], tuple[str, ...], nn.Module]:
    """Inputs and outputs named as Optimum names them, so that existing generation loops fit."""
    layers, query_heads = config.num_hidden_layers, config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or query_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // query_heads
    pairs = [(index, part) for index in range(layers) for part in ("key", "value")]
    groups = (
        inputs.text(config, past_sequence="past_sequence", positions="position_ids" in _parameters(model)),
        inputs.past((f"past_key_values.{index}.{part}" for index, part in pairs), heads, head_dim),
    )
    outputs = ("logits", *(f"present.{index}.{part}" for index, part in pairs))
    return groups, outputs, Cached(model, _names(groups), layers)


def _probes(config: Any, groups: tuple[Group, ...]) -> tuple[Probe, tuple[Probe, ...]]:
    """Sizes to trace and to check with: another batch and length, padded; and a single short sample.

    With a cache: a step after a past, a prompt without one, and a step of one token.
    """
    labels = {label for group in groups for axes in group.axes.values() for label in axes.values()}
    if "past_sequence" in labels:
        return _stepped(2, 5, 3), (
            Probe(_stepped(3, 7, 4).sizes, padded=True),
            _stepped(1, 0, 8),
            _stepped(2, 9, 1),
        )
    text = getattr(config, "text_config", None) or config
    known = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "max_target_positions"))
    # Two less: RoBERTa's positions start after its padding token.
    most = max(_SHORTEST, min((limit for limit in known if limit), default=64) - 2)
    long, middle, short = min(16, most), min(11, most - 1), min(7, most - 2)

    def sizes(batch: int, length: int) -> dict[str, int]:
        # Different lengths on different axes, so that the length identifies the axis.
        every = {
            "batch": batch,
            "text_batch": batch,
            "image_batch": batch + 3,
            "sequence": length,
            "target_sequence": max(2, length - 3),
            "encoder_sequence": length + 2,
        }
        return {label: every[label] for label in labels}

    return Probe(sizes(2, long)), (Probe(sizes(3, middle), padded=True), Probe(sizes(1, short)))


def _stepped(batch: int, before: int, new: int) -> Probe:
    return Probe({"batch": batch, "past_sequence": before, "sequence": new, "past_sequence + sequence": before + new})


def _names(groups: tuple[Group, ...]) -> list[str]:
    return [name for group in groups for name in group.axes]


def _parameters(model: nn.Module) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


def _unusable(source: str, error: Exception) -> Exception:
    text = str(error)
    if "trust_remote_code" in text:
        return SOURCE_UNUSABLE(
            f"{source} brings its own Python code, which is never executed",
            "load it yourself in package.module:factory",
        )
    if is_folder(source):
        return SOURCE_UNUSABLE(f"{source}: {_first_line(error)}")
    return SOURCE_UNUSABLE(
        f"{source!r} is not a folder, and transformers cannot fetch it from the hub: {_first_line(error)}",
        "download the model where there is a network, and give its folder",
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
