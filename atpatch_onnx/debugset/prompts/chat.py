"""Chat templates: the jinja text in a tokenizer's folder that turns a chat into one text.

A template may come from a stranger, so it runs in jinja's sandbox, as transformers does it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rewriters.model.regular_files import is_regular

from ...errors import EXTRA_MISSING, TOKENIZER_UNUSABLE
from .reading import Turn

__all__ = ["ChatTemplate"]

FILE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
_WRONG = (AttributeError, TypeError, ValueError, RecursionError)


class ChatTemplate:
    """The chat template in a folder: `chat_template.jinja`, or `chat_template` of `tokenizer_config.json`.

    Raises:
        AtpatchError: ATP051 without jinja2, ATP081 where there is no template or it cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            import jinja2
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise EXTRA_MISSING("chat templates need jinja2", "pip install 'atpatch-onnx[fit]'") from error
        path = Path(folder)
        self._folder = path = path.parent if is_regular(path) else path
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = datetime.now().strftime
        environment.filters["tojson"] = _json
        # A template computes; what can go wrong there is the template's fault.
        self._errors = (jinja2.TemplateError, ArithmeticError, LookupError, *_WRONG)
        config = _config(path)
        self._words = {
            name: word["content"] if isinstance(word, dict) else word
            for name, word in config.items()
            if name.endswith("_token") and (isinstance(word, str) or (isinstance(word, dict) and "content" in word))
        }
        try:
            self._template = environment.from_string(_source(path, config))
        except self._errors as error:
            raise TOKENIZER_UNUSABLE(f"the chat template in {path} cannot be read: {error}") from error

    def render(self, turns: Sequence[Turn]) -> str:
        """The chat as text, up to where the assistant begins to answer.

        Raises:
            AtpatchError: ATP081 where the template refuses the turns.
        """
        try:
            return self._template.render(messages=list(turns), add_generation_prompt=True, **self._words)
        except self._errors as error:
            raise TOKENIZER_UNUSABLE(f"the chat template in {self._folder} refuses a chat: {error}") from error


def _source(folder: Path, config: dict[str, Any]) -> str:
    if is_regular(folder / FILE):
        try:
            return (folder / FILE).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise TOKENIZER_UNUSABLE(f"{folder / FILE} cannot be read: {error}") from error
    found = config.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = next(
            (one.get("template") for one in found if isinstance(one, dict) and one.get("name") == "default"), None
        )
    if not isinstance(found, str):
        raise TOKENIZER_UNUSABLE(f"{folder} has no chat template", f"put {FILE} there, or leave --chat out")
    return found


def _config(folder: Path) -> dict[str, Any]:
    if not is_regular(folder / CONFIG):
        return {}
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TOKENIZER_UNUSABLE(f"{folder / CONFIG} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _refuse(message: str) -> str:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
