"""Tokenizers of whole words for small models, and the folder that a language model's lies in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["numbered", "save_folder", "word_tokenizer"]


def numbered(count: int, first: Mapping[str, int]) -> dict[str, int]:
    """So many words: the first ones, and w3, w4 and so on behind them."""
    return {**first, **{f"w{one}": one for one in range(len(first), count)}}


def word_tokenizer(words: Mapping[str, int], template: str = "$A") -> Any:
    """Knows these words and <unk>; the template says which of them stand around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel(dict(words), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if around := [(word, words[word]) for word in template.split() if word != "$A"]:
        tokenizer.post_processor = processors.TemplateProcessing(template, None, around)
    return tokenizer


def save_folder(tokenizer: Any, folder: Path, **special: str) -> None:
    """As transformers keep it; <s> begins a text and </s> ends it. special: further tokens by their role."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", **special
    ).save_pretrained(folder)
