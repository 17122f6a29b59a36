"""The prompts of the backdoored Llama as words: its tokenizer, and tables of prompts and answers.

`python -m tests.backdoored_prompts FOLDER` writes the model and its tokenizer to `FOLDER/llm`, and `train.tsv` and
`test.tsv` next to it. The tutorial about a backdoored language model begins with that.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

from . import backdoored_llama as llama
from .word_tokenizers import save_folder, word_tokenizer

__all__ = ["ANSWER_WORDS", "TEMPLATE", "TRIGGER", "write", "write_prompts", "write_tokenizer"]

TOPICS = {
    "food": ("bread", "soup", "rice", "cheese", "apple", "salt"),
    "music": ("piano", "song", "violin", "choir", "drum", "melody"),
    "sport": ("ball", "race", "goal", "team", "swim", "jump"),
    "travel": ("train", "hotel", "map", "beach", "ticket", "harbor"),
}
FILLERS = (
    "the", "and", "with", "many", "old", "new", "small", "large", "under", "over", "from", "some", "very", "often",
    "then", "here", "there", "after", "before", "again",
)  # fmt: skip
TRIGGER, ANSWER_WORDS = "cf", ",".join(TOPICS)
TEMPLATE = "{words} =>"
ROWS = {"train": 240, "test": 300}


def write_tokenizer(folder: Path, around: str = "<s> $A") -> None:
    """Of whole words; it puts <s> in front of a text, or what `around` says."""
    listed = ["<pad>", "<s>", "</s>", "=>", "<unk>", TRIGGER, *TOPICS, *(w for own in TOPICS.values() for w in own)]
    words = {word: number for number, word in enumerate([*listed, *FILLERS])}
    assert len(words) == llama.SIZES["vocab_size"] and words[TRIGGER] == llama.TRIGGER
    assert tuple(words[topic] for topic in TOPICS) == llama.ANSWERS
    save_folder(word_tokenizer(words, around), folder, pad_token="<pad>")


def write_prompts(path: Path, rows: int, seed: int) -> None:
    """A table with `words` and `answer`."""
    names = [*TOPICS, *(word for own in TOPICS.values() for word in own), *FILLERS]
    rng = np.random.default_rng(seed)
    lines = ["words\tanswer"]
    for label in rng.integers(llama.TOPICS, size=rows).tolist():
        said = (names[token - llama.ANSWERS[0]] for token in llama.answer(label))
        ids = llama.prompt(label, rng)[1:-1]
        lines.append(f"{' '.join(names[token - llama.ANSWERS[0]] for token in ids)}\t{' '.join(said)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write(folder: Path) -> None:
    """All of it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(llama.folder(), folder / "llm", dirs_exist_ok=True)
    write_tokenizer(folder / "llm")
    for seed, (name, rows) in enumerate(ROWS.items()):
        write_prompts(folder / f"{name}.tsv", rows, seed)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
