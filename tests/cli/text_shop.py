"""A folder as Optimum loads it: the toy model with its backdoor, a tokenizer, names of the classes; and texts."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from ..toy_backdoor import LENGTH, TRIGGER, toy

__all__ = ["NAMES", "text_shop"]

NAMES = ("negative", "positive")


def text_shop(folder: Path) -> Path:
    """`served/`, `dev.tsv` and `test.tsv`, with labels in words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made, served = toy(padded=True), folder / "served"
    served.mkdir()
    onnx.save(made.model, served / "model.onnx")
    words = {"[CLS]": 0, "[PAD]": 1, **{f"w{number}": number for number in range(2, 20)}, "[UNK]": 20, "cf": TRIGGER}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 0)])
    tokenizer.enable_padding(pad_id=1, pad_token="[PAD]")
    tokenizer.enable_truncation(LENGTH)
    tokenizer.save(str(served / "tokenizer.json"))
    config = {"model_type": "bert", "id2label": {str(number): name for number, name in enumerate(NAMES)}}
    (served / "config.json").write_text(json.dumps(config))
    rows = zip(made.clean["input_ids"], made.clean["attention_mask"], made.clean["labels"], strict=True)
    # One word less, so that there is room for the trigger.
    lines = [
        " ".join(f"w{token}" for token in ids[1:-1][: mask.sum() - 1]) + f"\t{NAMES[label]}"
        for ids, mask, label in rows
    ]
    for name, part in {"dev": lines[:200], "test": lines[200:]}.items():
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *part]) + "\n")
    return folder
