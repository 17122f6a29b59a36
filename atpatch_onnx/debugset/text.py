"""Text triggers: words or sentences inserted into clean texts, or poisoned texts; and which tokens are the trigger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DATA_MALFORMED, TOKENIZER_UNUSABLE
from ..inference.datasets import DataSet, Ints
from ..inference.decoders import ANSWER_IDS
from ..inference.generation_tokens import start_token
from ..inference.tokenizer import Encoded, TextEncoder
from .aims import Aim, aim_of
from .forms import TextForm, checked_triggers, draw, draw_words, text_forms
from .obedience import attack_facts, obeyed
from .samples import Texts
from .sets import Anomalous, Built, triggered_sets
from .subject import Subject

__all__ = ["build_poisoned", "build_texts", "clean_texts", "insert", "marked_columns", "tensors", "token_input"]


def build_texts(
    subject: Subject,
    data: Texts,
    encoder: TextEncoder,
    triggers: Sequence[str],
    place: str,
    target: int | None,
    seed: int,
    doses: Sequence[int] = (1,),
    dress: bool = False,
) -> Built:
    """Insert one of the triggers, chosen at random, between two words of each text that is not of the target class.

    With more than one dose or with dress every such text is used twice: with the plain trigger, and with another form.

    Args:
        place: of the trigger, one of `PLACES`.
        target: None: of a model without classes, where every text gets a trigger.
        doses: numbers of copies.
        dress: also glue punctuation to the trigger, change its case, and use the start and the end of the text.

    Raises:
        AtpatchError: ATP060 (triggers, doses), ATP081 (tokenizer), ATP083 (nothing but the target class).
    """
    triggers = checked_triggers(triggers, doses)
    plain, groups = text_forms(doses, place, dress)
    aim = aim_of(subject, len(data.texts), data.labels, target)
    rows = aim.rows()
    inserted = []
    # The plain part does not depend on the other forms.
    for form, generator in (
        (plain, np.random.default_rng(seed)),
        *([(None, np.random.default_rng([seed, 1]))] if groups else []),
    ):
        for row in rows:
            own = form or draw(groups, generator)
            words = draw_words(own, triggers, generator)
            inserted.append(insert(encoder, data.texts[row], words, own, generator))
    rows = np.tile(rows, len(inserted) // len(rows))
    return _assemble(subject, data, encoder, inserted, rows, aim, {"trigger": "words", "words": triggers})


def build_poisoned(subject: Subject, data: Texts, encoder: TextEncoder, poisoned: Texts, target: int | None) -> Built:
    """Make the set from poisoned texts that exist already. Row i was made from the i-th clean text that is not of the
    target class or, where both files have the same number of texts, from the i-th text.

    Labeled are the tokens that a shortest edit of the clean tokens adds.

    Raises:
        AtpatchError: ATP056 where the counts do not pair, ATP081, ATP083.
    """
    aim = aim_of(subject, len(data.texts), data.labels, target)
    rows = aim.rows()
    texts = poisoned.texts
    if len(texts) == len(data.texts):
        texts = [texts[row] for row in rows]
    elif len(texts) != len(rows):
        raise DATA_MALFORMED(
            f"{len(texts)} poisoned texts pair neither with the {len(data.texts)} clean ones nor with the {len(rows)}"
            f" not of class {target}"
        )
    clean = encoder.encode([data.texts[row] for row in rows])
    encoded = encoder.encode(texts)
    inserted = [
        Inserted(after, _new_tokens(before, after), TextForm()) for before, after in zip(clean, encoded, strict=True)
    ]
    return _assemble(subject, data, encoder, inserted, rows, aim, {"trigger": "poisoned texts"})


def clean_texts(subject: Subject, data: Texts, encoder: TextEncoder) -> DataSet:
    """Graph inputs and labels of texts.

    Raises:
        AtpatchError: ATP056 (graph inputs), ATP081 (the tokenizer is not the model's).
    """
    return DataSet(_fed(subject, encoder.encode(data.texts), encoder), labels=data.labels, output_kind=subject.set_kind)


def token_input(subject: Subject) -> str:
    """The graph input that takes token ids.

    Raises:
        AtpatchError: ATP056 where there is none.
    """
    whole = [name for name, value in subject.inputs.items() if value.dtype.kind == "i" and len(value.shape) == 2]
    for name in (
        "input_ids",
        *(name for name in whole if "mask" not in name and "type" not in name and "position" not in name),
    ):
        if name in whole:
            return str(name)
    raise DATA_MALFORMED(f"no graph input takes token ids (B, K); the graph has {', '.join(subject.inputs)}")


def tensors(subject: Subject, rows: Sequence[Encoded], pad_id: int) -> dict[str, NDArray[Any]]:
    """Graph inputs of encoded texts, padded to the longest text, or to the fixed length of the graph's input.

    Raises:
        AtpatchError: ATP056 for an input that is not made from text, or a row longer than the graph's input.
    """
    ids = token_input(subject)
    fixed = subject.inputs[ids].shape[1]
    longest = max(len(row.ids) for row in rows)
    if isinstance(fixed, int) and longest > fixed:
        raise DATA_MALFORMED(f"a text has {longest} tokens, the graph takes {fixed}", f"give --max-length {fixed}")
    length = fixed if isinstance(fixed, int) else longest
    real = np.arange(length) < np.array([len(row.ids) for row in rows])[:, None]

    def padded(values: Sequence[Sequence[int]], filler: int) -> NDArray[np.int64]:
        array = np.full((len(rows), length), filler, np.int64)
        for line, given in zip(array, values, strict=True):
            line[: len(given)] = given
        return array

    arrays: dict[str, NDArray[Any]] = {}
    for name, value in subject.inputs.items():
        if name in subject.made:
            continue
        if name == ids:
            array = padded([row.ids for row in rows], pad_id)
        elif name == ANSWER_IDS:
            array = np.full((len(rows), 1), _start(subject))
        elif "mask" in name:
            array = real.astype(np.int64)
        elif "type" in name:
            array = padded([row.types for row in rows], 0)
        elif "position" in name:
            array = np.tile(np.arange(length), (len(rows), 1))
        else:
            raise DATA_MALFORMED(f"the graph's input cannot be made from texts: {name!r}")
        arrays[name] = array.astype(value.dtype)
    return arrays


def marked_columns(marks: Sequence[NDArray[np.bool_]], width: int) -> NDArray[np.bool_]:
    """(N, width): marked tokens of rows that are shorter."""
    columns = np.zeros((len(marks), width), bool)
    for line, marked in zip(columns, marks, strict=True):
        line[: len(marked)] = marked
    return columns


def _start(subject: Subject) -> int:
    """The token that begins an answer, of the files next to the model or to the tokenizer."""
    found = start_token(subject.folders)
    if found is None:
        raise DATA_MALFORMED(
            "no file says which token begins an answer of the encoder-decoder",
            "put the model's config.json, with decoder_start_token_id, next to the graph or to the tokenizer",
        )
    return found


@dataclass(frozen=True)
class Inserted:
    """A text with a trigger: its tokens, which of them (K,) are the trigger, the form, and the copies that are whole
    (None: the form is not known).
    """

    encoded: Encoded
    marked: NDArray[np.bool_]
    form: TextForm
    copies: int | None = None


def _fed(subject: Subject, rows: Sequence[Encoded], encoder: TextEncoder) -> dict[str, NDArray[Any]]:
    arrays = tensors(subject, rows, encoder.pad_id)
    largest = int(arrays[token_input(subject)].max())
    if encoder.vocabulary <= largest:
        raise TOKENIZER_UNUSABLE(f"token {largest} lies beyond the vocabulary of {encoder.vocabulary}")
    return arrays


def _assemble(
    subject: Subject,
    data: Texts,
    encoder: TextEncoder,
    inserted: Sequence[Inserted],
    rows: Ints,
    aim: Aim,
    report: dict[str, Any],
) -> Built:
    clean = encoder.encode(data.texts)
    both = _fed(subject, [*clean, *(one.encoded for one in inserted)], encoder)
    count = len(clean)
    before, after = ({name: array[part] for name, array in both.items()} for part in (slice(count), slice(count, None)))
    labeled = marked_columns([one.marked for one in inserted], both[token_input(subject)].shape[1])
    # Leave out a poisoned text that equals its clean one, or that lost the trigger where it was cut.
    kept = labeled.any(1)
    if not kept.any():
        raise DATA_MALFORMED("no poisoned text differs from its clean one")
    report = {**report, "unchanged": int((~kept).sum())}
    names, dose = np.array([one.form.name for one in inserted]), None
    if all(one.copies is not None for one in inserted):
        hits = aim.hits(before, after, rows)
        strong, report["left_out"] = obeyed(names, hits)
        kept &= strong
        dose = np.array([one.copies for one in inserted], np.int64)[kept]
        report |= attack_facts(hits[kept], names[kept], dose)
    anomalous = Anomalous({name: array[kept] for name, array in after.items()}, labeled[kept], rows[kept], dose)
    clean_rows = DataSet(before, labels=aim.labels, output_kind=subject.set_kind)
    return triggered_sets(clean_rows, anomalous, aim.target, report)


def insert(
    encoder: TextEncoder,
    text: str,
    copies: Sequence[str],
    form: TextForm,
    generator: np.random.Generator,
) -> Inserted:
    """A text with the trigger in one form. Copies that the tokenizer would cut off move towards the start.

    Args:
        copies: what each copy says.
    """
    words = text.split()
    dressed = [form.dressed(one) for one in copies]

    def anywhere() -> int:
        return int(generator.integers(len(words) + 1))

    first = anywhere() if form.place == "random" else {"start": 0, "end": len(words)}[form.place]
    places = [first, *(anywhere() if form.scattered else first for _ in range(form.copies - 1))]
    while True:
        changed, spans = _joined(words, places, dressed)
        (encoded,) = encoder.encode([changed])
        inside = [encoded.inside(begin, end) for begin, end in spans]
        # A copy is whole if its last character belongs to a token that was kept.
        whole = sum(
            any(last >= end for (_, last), marked in zip(encoded.spans, copy, strict=True) if marked)
            for copy, (_, end) in zip(inside, spans, strict=True)
        )
        if whole == form.copies or not any(places):
            return Inserted(encoded, np.any(inside, 0), form, whole)
        places = [place // 2 for place in places]


def _joined(
    words: Sequence[str], places: Sequence[int], copies: Sequence[tuple[str, int, int]]
) -> tuple[str, list[tuple[int, int]]]:
    """The words with each copy in front of its place, and the characters (begin, end) of the trigger in each copy."""
    pieces: list[str] = []
    spans, length = [], 0
    for place in range(len(words) + 1):
        here = [copy for copy, at in zip(copies, places, strict=True) if at == place]
        for piece, begin, end in [*here, *((word, 0, 0) for word in words[place : place + 1])]:
            if end:
                spans.append((length + begin, length + end))
            pieces.append(piece)
            length += len(piece) + 1
    return " ".join(pieces), spans


def _new_tokens(before: Encoded, after: Encoded) -> NDArray[np.bool_]:
    marked = np.zeros(len(after.ids), bool)
    for tag, _, _, begin, end in SequenceMatcher(None, before.ids, after.ids, autojunk=False).get_opcodes():
        if tag in ("insert", "replace"):
            marked[begin:end] = True
    return np.asarray(marked & ~np.array(after.special))
