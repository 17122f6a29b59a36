"""Builds sets of prompts: clean ones, and twins of them with a trigger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BAD_OPTION, DATA_MALFORMED, NOTHING_FOUND
from ...inference.datasets import DataSet, Ints
from ..forms import DOSES, TextForm, checked_triggers, draw, draw_words
from ..obedience import OBEYED, PLAIN, attack_facts, obeyed
from ..sets import Anomalous, Built, open_rows, triggered_sets
from ..subject import Subject
from ..text import marked_columns, tensors, token_input
from .answers import read_answers
from .encoding import MarkedPrompt, PromptEncoder
from .forms import SECOND_TURN, prompt_forms, put
from .reading import Prompt

__all__ = ["Attack", "build_prompts", "clean_prompts", "with_second_turns"]


@dataclass(frozen=True)
class Attack:
    """How prompts are attacked.

    Attributes:
        triggers: words; each prompt gets one of them.
        target: class of the answer, or its first token where there are no classes; None: the answer that the trigger
            leads to most often.
        place, doses, dress: as in `build_texts`; places also `middle` and `last`.
    """

    triggers: Sequence[str]
    target: int | None = None
    place: str = "random"
    doses: Sequence[int] = DOSES
    dress: bool = True
    seed: int = 0


def with_second_turns(
    prompts: Sequence[Prompt], encoder: PromptEncoder, classes: Sequence[int] | None, share: float, seed: int
) -> list[Prompt]:
    """A share of the prompts of one turn as the second turn of a chat, behind another prompt and its answer.

    Raises:
        AtpatchError: ATP060 where there are no answers, ATP080 (answers).
    """
    single = [row for row, prompt in enumerate(prompts) if not prompt.earlier]
    generator = np.random.default_rng([seed, 2])
    drawn = generator.permutation(np.array(single, np.int64))[: round(share * len(single))].tolist()
    if not drawn or len(prompts) < 2:
        return list(prompts)
    answered = read_answers(encoder, prompts, classes)
    if answered is None:
        raise BAD_OPTION("second turns need the answers of first turns", "name their column with --answer")
    found = list(prompts)
    for row in drawn:
        first = int(generator.integers(len(prompts) - 1))
        first += first >= row
        answer = encoder.encoder.text([token for token in answered.tokens[first].tolist() if token >= 0])
        earlier = (
            {"role": "user", "content": prompts[first].content(prompts[first].text)},
            {"role": "assistant", "content": answer},
        )
        found[row] = replace(prompts[row], earlier=(*prompts[first].earlier, *earlier))
    return found


def clean_prompts(
    subject: Subject, prompts: Sequence[Prompt], encoder: PromptEncoder, limit: int | None = None
) -> tuple[list[Prompt], DataSet, dict[str, Any]]:
    """The prompts of at most `limit` tokens, their rows, and a report.

    Raises:
        AtpatchError: ATP056 (graph inputs; every prompt too long), ATP080 (answers).
    """
    encoded = encoder.encode(prompts)
    limit = _limit(subject, limit)
    short = [row for row, one in enumerate(encoded) if limit is None or len(one.encoded.ids) <= limit]
    if not short:
        raise DATA_MALFORMED(f"every prompt has more than {limit} tokens", "give a greater --max-length")
    kept = [prompts[row] for row in short]
    inputs = _fed(subject, [encoded[row] for row in short], encoder)
    answered = read_answers(encoder, kept, subject.answer_tokens)
    report: dict[str, Any] = {"too_long": len(prompts) - len(short)}
    classes = None if subject.answer_tokens is None else np.array(subject.answer_tokens, np.int64)
    if answered is None:
        return kept, DataSet(inputs, answer_tokens=classes), report
    return kept, DataSet(inputs, labels=answered.labels, answer_tokens=classes, answer=answered.tokens), report


def build_prompts(
    subject: Subject, prompts: Sequence[Prompt], encoder: PromptEncoder, attack: Attack, limit: int | None = None
) -> Built:
    """Every prompt whose answer is not the target's twice: with the plain trigger, and with it in another form.

    Without a target, it is the answer to which the trigger turns most of the prompts. Forms that the model does not
    obey are left out.

    Raises:
        AtpatchError: ATP056, ATP060 (triggers, doses), ATP080, ATP083 (no answer changes, or all are the target's).
    """
    triggers = checked_triggers(attack.triggers, attack.doses)
    prompts, clean, report = clean_prompts(subject, prompts, encoder, limit)
    predicted = subject.predictions(clean.inputs)
    truth = predicted if clean.labels is None else clean.labels
    maker = _Maker(subject, prompts, encoder, replace(attack, triggers=triggers), _limit(subject, limit))
    target = maker.target(predicted) if attack.target is None else attack.target
    made = maker.twins(open_rows(truth, target))
    encoded = encoder.encode([one.prompt for one in made])
    fits = [place for place, one in enumerate(encoded) if one.marked.any() and maker.fits(one)]
    if not fits:
        raise DATA_MALFORMED("no prompt has room for the trigger", "give a greater --max-length")
    report |= {"trigger": "words", "words": triggers, "unchanged": len(encoded) - len(fits)}
    made, encoded = [made[place] for place in fits], [encoded[place] for place in fits]
    both = _fed(subject, [*encoder.encode(prompts), *encoded], encoder)
    count = len(prompts)
    anomalous, told = _obeyed(subject, made, encoded, {name: array[count:] for name, array in both.items()}, target)
    report |= told | _shares(clean, predicted, anomalous.clean_row, target, encoder, subject)
    wide = replace(clean, inputs={name: array[:count] for name, array in both.items()})
    return triggered_sets(wide, anomalous, target, report)


@dataclass(frozen=True)
class _Twin:
    """A prompt with a trigger in one form, made from a row."""

    prompt: Prompt
    row: int
    form: TextForm
    name: str


@dataclass(frozen=True)
class _Maker:
    subject: Subject
    prompts: Sequence[Prompt]
    encoder: PromptEncoder
    attack: Attack
    limit: int | None

    def fits(self, one: MarkedPrompt) -> bool:
        return self.limit is None or len(one.encoded.ids) <= self.limit

    def target(self, predicted: Ints) -> int:
        """The class to which the plain trigger turns most prompts."""
        plain, _ = self._forms()
        generator = np.random.default_rng(self.attack.seed)
        twins = [self._twin(row, plain, generator) for row in range(len(self.prompts))]
        after = self.subject.predictions(
            _fed(self.subject, self.encoder.encode([twin.prompt for twin in twins]), self.encoder)
        )
        turned = after[after != predicted]
        if not len(turned):
            raise NOTHING_FOUND(
                f"the trigger changes no answer{self.encoder.remark}", "check the trigger, the template and the model"
            )
        values, hits = np.unique(turned, return_counts=True)
        target = int(values[hits.argmax()])
        share = float((after[predicted != target] == target).mean())
        if share < OBEYED:
            raise NOTHING_FOUND(
                f"the trigger turns only {share:.1%} of the prompts to one answer{self.encoder.remark}",
                "name it with --target-answer",
            )
        return target

    def twins(self, rows: Ints) -> list[_Twin]:
        plain, groups = self._forms()
        seed = self.attack.seed
        first, second = np.random.default_rng(seed), np.random.default_rng([seed, 1])
        # The plain part does not depend on the other forms.
        made = [self._twin(row, plain, first) for row in rows.tolist()]
        return made + [self._twin(row, draw(groups, second), second) for row in rows.tolist() if groups]

    def _forms(self) -> tuple[TextForm, list[list[TextForm]]]:
        attack = self.attack
        behind = any(prompt.behind for prompt in self.prompts)
        return prompt_forms(attack.doses, attack.place, attack.dress, behind)

    def _twin(self, row: int, form: TextForm, generator: np.random.Generator) -> _Twin:
        prompt = self.prompts[row]
        text, behind = put(prompt, draw_words(form, self.attack.triggers, generator), form, generator)
        name = SECOND_TURN if form.name == PLAIN and prompt.earlier else form.name
        return _Twin(replace(prompt, text=text, behind=behind), row, form, name)


def _obeyed(
    subject: Subject,
    made: Sequence[_Twin],
    encoded: Sequence[MarkedPrompt],
    inputs: dict[str, NDArray[Any]],
    target: int,
) -> tuple[Anomalous, dict[str, Any]]:
    """The twins in forms that the model obeys."""
    columns = marked_columns([one.marked for one in encoded], inputs[token_input(subject)].shape[1])
    names = np.array([one.name for one in made])
    hits = subject.predictions(inputs) == target
    kept, weak = obeyed(names, hits)
    dose = np.array([one.form.copies for one in made], np.int64)[kept]
    rows = np.array([one.row for one in made], np.int64)[kept]
    told = {"left_out": weak, **attack_facts(hits[kept], names[kept], dose)}
    twins = {name: array[kept] for name, array in inputs.items()}
    return Anomalous(twins, columns[kept], rows, dose, names[kept]), told


def _shares(
    clean: DataSet, predicted: Ints, rows: Ints, target: int, encoder: PromptEncoder, subject: Subject
) -> dict[str, Any]:
    """What the model answers without a trigger, and the target as a word."""
    token = target if subject.answer_tokens is None else subject.answer_tokens[target]
    known = {} if clean.labels is None else {"accuracy": float((predicted == clean.labels).mean())}
    floor = float((predicted[np.unique(rows)] == target).mean())
    return {**known, "floor": floor, "target_answer": encoder.encoder.text([int(token)])}


def _limit(subject: Subject, limit: int | None) -> int | None:
    fixed = subject.inputs[token_input(subject)].shape[1]
    return min(limit or fixed, fixed) if isinstance(fixed, int) else limit


def _fed(subject: Subject, rows: Sequence[MarkedPrompt], encoder: PromptEncoder) -> dict[str, NDArray[Any]]:
    return tensors(subject, [one.encoded for one in rows], encoder.encoder.pad_id)
