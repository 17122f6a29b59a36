"""What can be exported: per task the transformers class that loads it, and the architectures that imply it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import TASK_UNCLEAR

__all__ = ["PLAIN_TASKS", "TASKS", "Task", "default_task"]


@dataclass(frozen=True)
class Task:
    """One kind of graph.

    Attributes:
        summary: inputs → outputs, for people.
        loaders: names of transformers' auto classes, tried in this order; () for plain torch modules only.
        outputs: names of the outputs kept, in order.
        endings: ends of architecture names that imply the task.
    """

    summary: str
    loaders: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("logits",)
    endings: tuple[str, ...] = ()


_HIDDEN = ("last_hidden_state",)

TASKS: dict[str, Task] = {
    "text-classification": Task(
        "tokens → logits (batch, labels)",
        ("AutoModelForSequenceClassification",),
        endings=("ForSequenceClassification",),
    ),
    "token-classification": Task(
        "tokens → logits (batch, sequence, labels)",
        ("AutoModelForTokenClassification",),
        endings=("ForTokenClassification",),
    ),
    "feature-extraction": Task("tokens or image → last_hidden_state", ("AutoModel",), _HIDDEN, ("Model",)),
    "image-classification": Task(
        "pixel_values → logits (batch, labels)",
        ("AutoModelForImageClassification",),
        endings=("ForImageClassification",),
    ),
    "causal-lm": Task(
        "tokens → logits of the next ones; with --kv-cache also past_key_values in, present out",
        ("AutoModelForCausalLM",),
        endings=("ForCausalLM", "LMHeadModel"),
    ),
    "seq2seq-encoder": Task("tokens or spectrogram → last_hidden_state", ("AutoModel",), _HIDDEN),
    "seq2seq-decoder": Task(
        "target tokens, encoder states → logits", ("AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq")
    ),
    "clip": Task(
        "texts and images → logits and embeddings of both",
        ("AutoModel",),
        ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"),
        ("CLIPModel",),
    ),
    "tabular": Task("a plain torch module's own inputs → its own outputs"),
}
"""Task → how it is loaded. "tabular" is what a plain module gets: the first axis is the batch, nothing else changes."""

PLAIN_TASKS = {
    "tabular": ("batch",),
    "image-classification": ("batch",),
    "text-classification": ("batch", "sequence"),
    "token-classification": ("batch", "sequence"),
    "feature-extraction": ("batch", "sequence"),
    "causal-lm": ("batch", "sequence"),
}
"""Tasks of plain modules → labels of the leading axes of each input, unless the factory names the axes itself."""


def default_task(config: Any) -> str:
    """The task of a configuration's first architecture.

    Raises:
        AtpatchError: ATP071 where there is none, or where it needs a choice.
    """
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if getattr(config, "is_encoder_decoder", False) and not architecture.endswith(("Classification", "ForCausalLM")):
        raise TASK_UNCLEAR(
            f"{architecture or 'the model'} is an encoder-decoder, which is exported as two graphs",
            "run export twice: --task seq2seq-encoder and --task seq2seq-decoder",
        )
    # Longest ending first: "CLIPModel" also ends in "Model".
    endings = sorted(
        ((ending, name) for name, task in TASKS.items() for ending in task.endings), key=lambda pair: -len(pair[0])
    )
    for ending, name in endings:
        if architecture.endswith(ending) and not (ending == "Model" and "For" in architecture):
            return name
    raise TASK_UNCLEAR(
        f"the architecture {architecture!r} belongs to none of the tasks"
        if architecture
        else "the configuration names no architecture",
        "name one with --task: " + ", ".join(name for name, task in TASKS.items() if task.loaders),
    )
