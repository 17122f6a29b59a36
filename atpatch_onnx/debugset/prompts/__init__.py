"""Sets for decoders: prompts and their answers, plain or as chats, clean and with a trigger."""

from __future__ import annotations

from .building import build_prompts, clean_prompts
from .making import is_prompts, prompt_sets
from .reading import Prompt, read_prompts

__all__ = ["Prompt", "build_prompts", "clean_prompts", "is_prompts", "prompt_sets", "read_prompts"]
