"""Turns a request into sets of prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...errors import BAD_OPTION
from ...inference.answer_tokens import first_tokens
from ...inference.tokenizer import TextEncoder
from ...inspection.model_files import tokenizer_next_to
from ..request import Request
from ..row_checks import accuracy_of
from ..sets import Built, clean_arrays
from ..subject import Subject
from .building import Attack, build_prompts, clean_prompts, with_second_turns
from .chat import ChatTemplate
from .encoding import WHOLE, PromptEncoder
from .ending import with_ending
from .forms import LAST
from .reading import JSON_LINES, read_prompts

__all__ = ["PLACES", "is_prompts", "prompt_sets"]

PLACES = ("middle", LAST)
"""Where only prompts can have a trigger."""
SECOND_TURNS = 0.25
"""Of the prompts of a chat model."""


def is_prompts(request: Request) -> bool:
    """Whether the data are prompts: by an option that only prompts have, or by the ending of the file."""
    named = (request.prompt, request.answer, request.template, request.answer_tokens, request.second_turns)
    return (
        request.chat
        or any(one is not None for one in named)
        or Path(request.data).suffix.lower() in JSON_LINES
        or request.insert in PLACES
    )


def prompt_sets(subject: Subject, request: Request) -> Built:
    """The sets of a request with prompts.

    Raises:
        AtpatchError: ATP056, ATP060 (options, a model that is no decoder), ATP080 (prompts), ATP081 (tokenizer, chat
            template), ATP083.
    """
    if request.source not in ("--trigger", "--clean-only"):
        raise BAD_OPTION(f"{request.source} does not read prompts", "give --trigger or --clean-only")
    tokenizer = request.tokenizer or tokenizer_next_to(subject.folder)
    if tokenizer is None:
        raise BAD_OPTION("prompts need the model's tokenizer", "give its folder with --tokenizer")
    subject.tokenizer = Path(tokenizer)
    if not subject.answers:
        raise BAD_OPTION(
            "the model is no decoder with a cache, no encoder-decoder, and no answer tokens are given",
            "give --answer-tokens, or read the data as texts: without --prompt, --answer, --template, --chat, and"
            " --insert middle or last",
        )
    prompts = read_prompts(request.data, request.prompt, request.answer, request.template)
    share = request.second_turns
    if share is None:
        alike = all(prompt.answer is not None and not prompt.earlier for prompt in prompts)
        share = SECOND_TURNS if request.chat and alike else 0.0
    chats = request.chat or share > 0 or any(prompt.earlier for prompt in prompts)
    template = ChatTemplate(tokenizer) if chats else None
    encoder = PromptEncoder(TextEncoder(tokenizer, WHOLE), template, request.chat, not subject.has_encoder)
    encoder, ending = with_ending(subject, prompts, encoder)
    prompts = with_second_turns(prompts, encoder, subject.answer_tokens, share, request.seed)
    if request.source == "--clean-only":
        _, data, report = clean_prompts(subject, prompts, encoder, request.max_length)
        if data.labels is not None:
            report["accuracy"] = accuracy_of(subject, data)
        return Built(clean_arrays(data), report={"clean": len(data), "anomalous": 0, **report, **ending})
    attack = Attack(
        request.triggers, _target(subject, request, encoder), request.insert, request.doses, request.dress, request.seed
    )
    built = build_prompts(subject, prompts, encoder, attack, request.max_length)
    return replace(built, report={**built.report, **ending})


def _target(subject: Subject, request: Request, encoder: PromptEncoder) -> int | None:
    if request.target_answer is None:
        count = len(subject.answer_tokens or ())
        if request.target is not None and (request.target < 0 or 0 < count <= request.target):
            raise BAD_OPTION(f"there is no class {request.target}, only {count or 'ids of'} answer tokens")
        return request.target
    if request.target is not None:
        raise BAD_OPTION("--target and --target-answer both name the target", "give one of them")
    word = request.target_answer
    (token,) = first_tokens(encoder.encoder, [word])
    if subject.answer_tokens is None:
        return token
    (other,) = first_tokens(encoder.encoder, [word.strip() if word[:1].isspace() else f" {word}"])
    found = next((one for one in (token, other) if one in subject.answer_tokens), None)
    if found is None:
        raise BAD_OPTION(f"the answer {word!r} begins with none of the answer tokens")
    return list(subject.answer_tokens).index(found)
