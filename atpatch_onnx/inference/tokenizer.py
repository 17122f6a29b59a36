"""The model's tokenizer from its folder: `tokenizer.json`, or the `vocab.txt` of a WordPiece model.

Needs the light package tokenizers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewriters.model.regular_files import is_regular

from ..errors import EXTRA_MISSING, TOKENIZER_UNUSABLE

__all__ = ["Encoded", "TextEncoder"]

PADDING = ("[PAD]", "<pad>", "<|endoftext|>", "</s>")
LONGEST = 128


@dataclass(frozen=True)
class Encoded:
    """One text: token ids, token types, characters (begin, end) of each token, and whether each is a special token."""

    ids: list[int]
    types: list[int]
    spans: list[tuple[int, int]]
    special: list[bool]

    def inside(self, begin: int, end: int) -> list[bool]:
        """Which tokens hold a character from `begin` to before `end`; special ones do not."""
        return [
            not special and first < end and last > begin
            for (first, last), special in zip(self.spans, self.special, strict=True)
        ]


class TextEncoder:
    """Turns texts into tokens, special tokens included.

    Args:
        folder: holds `tokenizer.json` or `vocab.txt`; or the path of one of them.
        max_length: longest row, special tokens included; None: the tokenizer's own limit, else 128.

    Raises:
        AtpatchError: ATP081 where there is no tokenizer, ATP051 without the package tokenizers.
    """

    def __init__(self, folder: str | os.PathLike[str], max_length: int | None = None) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise EXTRA_MISSING("tokenizing needs the package tokenizers", "pip install 'atpatch-onnx[fit]'") from error
        path = Path(folder)
        path = path.parent if is_regular(path) else path
        try:
            if is_regular(path / "tokenizer.json"):
                self._tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
            elif is_regular(path / "vocab.txt"):
                self._tokenizer = _word_piece(path)
            else:
                raise TOKENIZER_UNUSABLE(f"{path} holds neither tokenizer.json nor vocab.txt")
        except (OSError, ValueError, KeyError) as error:
            raise TOKENIZER_UNUSABLE(f"the tokenizer in {path} cannot be read: {error}") from error
        except Exception as error:
            if type(error) is not Exception:  # the Rust library raises plain exceptions, and nothing else does
                raise
            raise TOKENIZER_UNUSABLE(f"the tokenizer in {path} cannot be read: {error}") from error
        truncation, padding = self._tokenizer.truncation, self._tokenizer.padding
        self.max_length = max_length or (truncation or {}).get("max_length") or LONGEST
        self.pad_id = int((padding or {}).get("pad_id", self._pad_id()))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length)

    @property
    def vocabulary(self) -> int:
        """Number of tokens, including added ones."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[Encoded]:
        """Tokens of each text; `special`: with the tokens that the tokenizer puts around a text."""
        return [
            Encoded(
                list(one.ids), list(one.type_ids), list(one.offsets), [bool(flag) for flag in one.special_tokens_mask]
            )
            for one in self._tokenizer.encode_batch(list(texts), add_special_tokens=special)
        ]

    def plain(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as people read them, spaces included."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def word(self, token: int) -> str:
        """The token as the vocabulary spells it."""
        return str(self._tokenizer.id_to_token(token))

    def _pad_id(self) -> int:
        found = (self._tokenizer.token_to_id(name) for name in PADDING)
        return next((number for number in found if number is not None), 0)


def _word_piece(folder: Path) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = {word: number for number, word in enumerate(words)}
    config = folder / "tokenizer_config.json"
    options = json.loads(config.read_text(encoding="utf-8")) if is_regular(config) else {}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=options.get("unk_token", "[UNK]")))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=bool(options.get("do_lower_case", True)))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    first, last = "[CLS]", "[SEP]"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, vocabulary[first]), (last, vocabulary[last])]
    )
    tokenizer.add_special_tokens([word for word in ("[PAD]", "[UNK]", first, last, "[MASK]") if word in vocabulary])
    return tokenizer
