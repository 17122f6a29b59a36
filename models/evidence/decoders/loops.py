"""The loops that people run: a prompt at once, then one token after another on the cache. One prompt at a time.

`KvLoop` is a loop on an onnxruntime session, on graphs of our export; `GenaiLoop` is `og.Generator`, on folders of
onnxruntime-genai. Both are greedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from atpatch_onnx.inference.sessions import session
from rewriters.model import io as model_io
from rewriters.names import FLAGGED

__all__ = ["GenaiLoop", "KvLoop", "Loop", "Said"]


@dataclass(frozen=True)
class Said:
    """tokens: the answer; flagged: whether a site flagged the prompt, None where the graph does not say."""

    tokens: list[int]
    flagged: bool | None


class Loop(Protocol):
    """Something that answers prompts."""

    def answer(self, ids: Sequence[int], tokens: int, stop: int) -> Said:
        """The most probable token again and again, so many of them, up to and with `stop`."""


class KvLoop:
    """An onnxruntime session, one thread by default.

    Args:
        path: a graph with `past_key_values.*` inputs and `present.*` outputs.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self.session = session(path, threads=threads)
        inputs = {value.name: value for value in self.session.get_inputs()}
        self._past = [name for name in inputs if name.startswith("past_key_values.")]
        self._empty = {
            name: np.zeros(
                [
                    1 if axis == 0 else size if isinstance(size, int) else 0
                    for axis, size in enumerate(inputs[name].shape)
                ],
                np.float32,
            )
            for name in self._past
        }
        self._wants = [name for name in ("attention_mask", "position_ids") if name in inputs]
        names = [value.name for value in self.session.get_outputs()]
        self._flag = FLAGGED if FLAGGED in names else None
        self._outputs = ["logits", *(name.replace("past_key_values", "present") for name in self._past)]

    def answer(self, ids: Sequence[int], tokens: int, stop: int) -> Said:
        """See `Loop`."""
        scores, caches, flagged = self.call(list(ids), 0, self._empty)
        said = [int(scores.argmax())]
        while len(said) < tokens and said[-1] != stop:
            scores, caches, _ = self.call(said[-1:], len(ids) + len(said) - 1, caches)
            said.append(int(scores.argmax()))
        return Said(said, flagged)

    def call(self, ids: list[int], past: int, caches: dict[str, Any]) -> tuple[Any, dict[str, Any], bool | None]:
        """Scores (V,) of the next token, the caches, and whether a site flagged."""
        made = {
            "attention_mask": np.ones((1, past + len(ids)), np.int64),
            "position_ids": np.arange(past, past + len(ids), dtype=np.int64)[None],
        }
        feeds = {"input_ids": np.array([ids], np.int64), **{name: made[name] for name in self._wants}, **caches}
        scores, *present = self.session.run([*self._outputs, *([self._flag] if self._flag else [])], feeds)
        flags = bool(np.any(present.pop())) if self._flag else None
        return scores[0, -1], dict(zip(self._past, present, strict=True)), flags

    def prefilled(self, ids: Sequence[int]) -> dict[str, Any]:
        """The caches after a prompt."""
        return self.call(list(ids), 0, self._empty)[1]


class GenaiLoop:
    """`og.Generator` on a folder of onnxruntime-genai."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai as og

        self._og, self._model = og, og.Model(str(folder))
        outputs = model_io.load(folder / "model.onnx").graph.output
        self._telemetry = any(value.name == FLAGGED for value in outputs)

    def answer(self, ids: Sequence[int], tokens: int, stop: int) -> Said:
        """See `Loop`."""
        settings = self._og.GeneratorParams(self._model)
        settings.set_search_options(max_length=len(ids) + tokens, do_sample=False)
        generator = self._og.Generator(self._model, settings)
        generator.append_tokens(np.array([ids], np.int32))
        flagged: bool | None = None
        said: list[int] = []
        while len(said) < tokens and not (said and said[-1] == stop):
            generator.generate_next_token()
            if not said:
                flagged = bool(np.any(generator.get_output(FLAGGED))) if self._telemetry else None
            said.append(int(generator.get_sequence(0)[-1]))
            if generator.is_done():
                break
        return Said(said, flagged)
