"""The special tokens of a text model, from the files of a tokenizer next to the model.

The files are read as plain JSON or text, so that no tokenizer library is needed. They may come from a stranger: only
regular files up to `MOST_BYTES` are read, and what is not as expected is passed over.

1. `tokenizer.json` says how a text is wrapped: the template, or the `cls` and `sep` of its post-processor.
2. Else the names in `tokenizer_config.json` and `special_tokens_map.json` are looked up in `added_tokens_decoder`,
   `vocab.txt` or `vocab.json`: [CLS] and [SEP] wrap a text, or BOS and EOS where there are none.
3. Else `config.json` may give the ids of BOS and EOS.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewriters.model.regular_files import is_regular

__all__ = ["MOST_BYTES", "SpecialTokens", "json_object", "read_special_tokens", "token_text"]

MOST_BYTES = 64 << 20
"""The tokenizers of models for many languages have 17 to 35 MB."""
MOST_ENDS = 8
"""Of tokens in front of a text or behind it; templates have one or two."""
_PADDING = ("[PAD]", "<pad>")
_MODEL_FOLDERS = ("onnx",)
"""Exports are put into such a folder of a repository, whose top folder has the tokenizer."""


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids that wrap a text.

    Attributes:
        first, last: in front of the text and behind it.
        pad: fills short rows.
        never: ids that do not stand inside a text, those above included.
        origin: file that says so, "" if none does.
    """

    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    pad: int = 0
    never: frozenset[int] = frozenset()
    origin: str = ""

    def fits(self, vocabulary: int) -> bool:
        """Whether the model has an embedding for each of the tokens that are fed to it."""
        return all(0 <= token < vocabulary for token in (*self.first, *self.last, self.pad))


def read_special_tokens(folder: str | os.PathLike[str]) -> SpecialTokens | None:
    """The special tokens of the tokenizer in a folder, or in the one above a folder called "onnx".

    Returns:
        None where no file says what wraps a text.
    """
    path = Path(folder)
    places = [path, path.resolve().parent] if path.resolve().name in _MODEL_FOLDERS else [path]
    for place in places:
        for read in (_from_tokenizer, _from_names, _from_config):
            found = read(place)
            if found is not None:
                return found
    return None


def _from_tokenizer(folder: Path) -> SpecialTokens | None:
    whole = json_object(folder / "tokenizer.json")
    added = [one for one in _list(whole.get("added_tokens")) if isinstance(one, dict) and one.get("special")]
    special = {str(one.get("content")): one["id"] for one in added if _is_id(one.get("id"))}
    processor = whole.get("post_processor")
    several = processor.get("processors") if isinstance(processor, dict) else None
    steps = [processor] if several is None else _list(several)
    for step in (one for one in steps if isinstance(one, dict)):
        ends = _template(step) if _type(step) == "TemplateProcessing" else _pair(step)
        if ends is not None:
            padding = whole.get("padding")
            pad = padding.get("pad_id") if isinstance(padding, dict) else None
            pad = pad if _is_id(pad) else next((special[name] for name in _PADDING if name in special), None)
            return _wrapped(*ends, pad, special.values(), "tokenizer.json")
    return None


def _template(step: Mapping[str, Any]) -> tuple[list[int], list[int]] | None:
    """Ids before and behind the text in a template like `[CLS] $A [SEP]`."""
    known = step.get("special_tokens")
    ends: tuple[list[int], list[int]] = [], []
    behind = 0
    for piece in _list(step.get("single")):
        if not isinstance(piece, dict) or not isinstance(known, dict):
            return None
        if "Sequence" in piece:
            behind = 1
            continue
        name = piece.get("SpecialToken", {}).get("id") if isinstance(piece.get("SpecialToken"), dict) else None
        ids = _list(known[name].get("ids")) if isinstance(name, str) and isinstance(known.get(name), dict) else []
        if not ids or not all(map(_is_id, ids)):
            return None
        ends[behind].extend(ids)
    return ends if behind else None


def _pair(step: Mapping[str, Any]) -> tuple[list[int], list[int]] | None:
    """Ids of a post-processor of BERT or RoBERTa: `{"cls": ["[CLS]", 101], "sep": ["[SEP]", 102]}`."""
    if _type(step) not in ("BertProcessing", "RobertaProcessing"):
        return None
    first, last = ([id for id in _list(step.get(name))[1:2] if _is_id(id)] for name in ("cls", "sep"))
    return (first, last) if first and last else None


def _from_names(folder: Path) -> SpecialTokens | None:
    config = json_object(folder / "tokenizer_config.json")
    names = {**config, **json_object(folder / "special_tokens_map.json")}
    words = {key: token_text(names.get(f"{key}_token")) for key in ("cls", "sep", "bos", "eos", "pad", "unk", "mask")}
    ids = _vocabulary(folder, config)
    special = {key: ids[word] for key, word in words.items() if word and word in ids}
    if not special and "[CLS]" in ids and "[SEP]" in ids:  # only the vocabulary of a WordPiece model
        special = {key: ids[word] for key, word in _WORD_PIECE.items() if word in ids}
    for first, last in (("cls", "sep"), ("bos", "eos")):
        if first in special and last in special:
            return _wrapped([special[first]], [special[last]], special.get("pad"), special.values(), "vocabulary")
    return None


_WORD_PIECE = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}


def _vocabulary(folder: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """Word → id, from all files that say so."""
    ids: dict[str, int] = {}
    if (text := _text(folder / "vocab.txt")) is not None:
        ids.update((word.rstrip("\r"), number) for number, word in enumerate(text.split("\n")))
    ids.update((word, id) for word, id in json_object(folder / "vocab.json").items() if _is_id(id))
    added = config.get("added_tokens_decoder")
    for number, token in added.items() if isinstance(added, dict) else ():
        if str(number).isdecimal() and len(str(number)) < 10 and (word := token_text(token)):
            ids[word] = int(number)
    return ids


def _from_config(folder: Path) -> SpecialTokens | None:
    config = json_object(folder / "config.json")
    ids: dict[str, int] = {
        name: config[f"{name}_token_id"] for name in ("bos", "eos", "pad") if _is_id(config.get(f"{name}_token_id"))
    }
    if "bos" not in ids or "eos" not in ids:
        return None
    return _wrapped([ids["bos"]], [ids["eos"]], ids.get("pad"), (), "config.json")


def _wrapped(
    first: Sequence[int], last: Sequence[int], pad: int | None, others: Iterable[int], origin: str
) -> SpecialTokens | None:
    if max(len(first), len(last)) > MOST_ENDS:
        return None
    filler = pad if pad is not None else 0
    never = frozenset((*first, *last, filler, *others))
    return SpecialTokens(tuple(first), tuple(last), filler, never, origin)


def json_object(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none."""
    text = _text(path)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str | None:
    try:
        if not is_regular(path) or path.stat().st_size > MOST_BYTES:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _type(step: Mapping[str, Any]) -> str:
    return str(step.get("type"))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def token_text(token: Any) -> str:
    """A token is written as a string, or as an object with its content."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
