"""Text triggers: words or sentences inserted into clean texts, or poisoned texts; and which tokens are the trigger."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BAD_OPTION, DATA_MALFORMED, TOKENIZER_UNUSABLE
from ..inference.datasets import DataSet, Ints
from ..inference.tokenizer import Encoded, TextEncoder
from .samples import Texts
from .sets import Anomalous, Built, open_rows, triggered_sets
from .subject import Subject

__all__ = ["PLACES", "build_poisoned", "build_texts", "tensors", "token_input"]

PLACES = ("random", "start", "end")


def build_texts(
    subject: Subject, data: Texts, encoder: TextEncoder, triggers: Sequence[str], place: str, target: int, seed: int
) -> Built:
    """Insert one of the triggers, chosen at random, between two words of each text that is not of the target class.

    Raises:
        AtpatchError: ATP060 (triggers), ATP081 (tokenizer), ATP083 (nothing but the target class).
    """
    triggers = [" ".join(trigger.split()) for trigger in triggers]
    if not triggers or not all(triggers):
        raise BAD_OPTION("a trigger is empty", "name one or several with --trigger")
    generator = np.random.default_rng(seed)
    rows = open_rows(data.labels, target)
    encoded, columns = [], []
    for row in rows:
        trigger = triggers[int(generator.integers(len(triggers)))]
        one, marked = _insert(encoder, data.texts[row], trigger, place, generator)
        encoded.append(one)
        columns.append(marked)
    return _assemble(subject, data, encoder, encoded, columns, rows, target, {"trigger": "words", "words": triggers})


def build_poisoned(subject: Subject, data: Texts, encoder: TextEncoder, poisoned: Texts, target: int) -> Built:
    """Make the set from poisoned texts that exist already. Row i was made from the i-th clean text that is not of the
    target class or, where both files have the same number of texts, from the i-th text.

    Labeled are the tokens that a shortest edit of the clean tokens adds.

    Raises:
        AtpatchError: ATP056 where the counts do not pair, ATP081, ATP083.
    """
    rows = open_rows(data.labels, target)
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
    columns = [_new_tokens(before, after) for before, after in zip(clean, encoded, strict=True)]
    return _assemble(subject, data, encoder, encoded, columns, rows, target, {"trigger": "poisoned texts"})


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
        if name == ids:
            array = padded([row.ids for row in rows], pad_id)
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


def _assemble(
    subject: Subject,
    data: Texts,
    encoder: TextEncoder,
    encoded: Sequence[Encoded],
    columns: Sequence[NDArray[np.bool_]],
    rows: Ints,
    target: int,
    report: dict[str, Any],
) -> Built:
    clean = encoder.encode(data.texts)
    both = tensors(subject, [*clean, *encoded], encoder.pad_id)
    ids = both[token_input(subject)]
    if encoder.vocabulary <= int(ids.max()):
        raise TOKENIZER_UNUSABLE(f"token {int(ids.max())} lies beyond the vocabulary of {encoder.vocabulary}")
    labeled = np.zeros((len(rows), ids.shape[1]), bool)
    for line, marked in zip(labeled, columns, strict=True):
        line[: len(marked)] = marked
    # Leave out a poisoned text that equals its clean one, or that lost the trigger where it was cut.
    kept = labeled.any(1)
    count = len(clean)
    anomalous = Anomalous({name: array[count:][kept] for name, array in both.items()}, labeled[kept], rows[kept])
    if not kept.any():
        raise DATA_MALFORMED("no poisoned text differs from its clean one")
    report = {**report, "unchanged": int((~kept).sum())}
    return triggered_sets(
        DataSet({name: array[:count] for name, array in both.items()}, labels=data.labels),
        data.labels,
        anomalous,
        target,
        report,
    )


def _insert(
    encoder: TextEncoder, text: str, trigger: str, place: str, generator: np.random.Generator
) -> tuple[Encoded, NDArray[np.bool_]]:
    """A text with the trigger in it, and which of its tokens are the trigger; nearer the start where the end is cut
    off.
    """
    words = text.split()
    at = {"start": 0, "end": len(words)}.get(place)
    if at is None:
        at = int(generator.integers(len(words) + 1))
    while True:
        before = " ".join(words[:at])
        begin = len(before) + bool(before)
        changed = " ".join([*words[:at], trigger, *words[at:]])
        (encoded,) = encoder.encode([changed])
        end = begin + len(trigger)
        inside = [
            not special and first < end and last > begin
            for (first, last), special in zip(encoded.spans, encoded.special, strict=True)
        ]
        # All of the trigger has to be there: its last character belongs to a token that was kept.
        whole = any(last >= end for (_, last), marked in zip(encoded.spans, inside, strict=True) if marked)
        if whole or at == 0:
            return encoded, np.array(inside)
        at //= 2


def _new_tokens(before: Encoded, after: Encoded) -> NDArray[np.bool_]:
    marked = np.zeros(len(after.ids), bool)
    for tag, _, _, begin, end in SequenceMatcher(None, before.ids, after.ids, autojunk=False).get_opcodes():
        if tag in ("insert", "replace"):
            marked[begin:end] = True
    return np.asarray(marked & ~np.array(after.special))
