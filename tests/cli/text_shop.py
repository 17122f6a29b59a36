"""A folder as Optimum loads it: the toy model with its backdoor, a tokenizer, names of the classes; and texts."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from ..toy_backdoor import LENGTH, toy, toy_texts
from ..toy_encoder import toy_tokenizer

__all__ = ["NAMES", "text_shop"]

NAMES = ("negative", "positive")


def text_shop(folder: Path) -> Path:
    """`served/`, `dev.tsv` and `test.tsv`, with labels in words."""
    served = folder / "served"
    served.mkdir()
    onnx.save(toy(padded=True).model, served / "model.onnx")
    tokenizer = toy_tokenizer()
    tokenizer.enable_truncation(LENGTH)
    tokenizer.save(str(served / "tokenizer.json"))
    config = {"model_type": "bert", "id2label": {str(number): name for number, name in enumerate(NAMES)}}
    (served / "config.json").write_text(json.dumps(config))
    lines = [f"{text}\t{NAMES[label]}" for text, label in toy_texts()]
    for name, part in {"dev": lines[:200], "test": lines[200:]}.items():
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *part]) + "\n")
    return folder
